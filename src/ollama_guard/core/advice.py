"""What suits a machine: the static protection that prevents most freezes, and what its owner should know.

Pure judgement of a `machine.Machine`. Only what stays the same from day to day goes in (memory, limits,
models, and what the owner has set), so that advice that was followed is given again unchanged. Each says
why, with numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ollama_guard.core.machine import Installed, Machine, Server
from ollama_guard.core.model import Level
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import has_prompt_cache, on_loopback, positive
from ollama_guard.core.sizing import (
    AUTO_LOADED,
    LEAST_CONTEXT_TOKENS,
    UNBOUNDED_CACHE_MIB,
    Fits,
    Room,
    Tier,
    cache_mib,
    container_limit,
    room_of,
    tiers_of,
)
from ollama_guard.core.units import bytes_text

# A machine smaller than this (bytes) keeps one model when it is not known how large the models are.
ONE_MODEL_BELOW_BYTES = 8 * GIB


@dataclass(frozen=True, slots=True)
class Line:
    """One line of Ollama's environment that is advised."""

    key: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Everything that is advised.

    ``room_bytes`` is what models may take before the soft threshold; ``memory_limit_bytes`` a limit for the
    container (None: none is advised). ``continues`` is why a unit needs OOMPolicy=continue ("" = no unit).
    ``notes`` are what the owner should know and nobody changes for them.
    """

    capacity_bytes: int
    room_bytes: int
    context_tokens: int
    tiers: tuple[Tier, ...] = ()
    environment: tuple[Line, ...] = ()
    memory_limit_bytes: int | None = None
    limit_why: str = ""
    continues: str = ""
    notes: tuple[str, ...] = ()


def advise(machine: Machine, policy: Policy, ours: frozenset[tuple[str, str]] = frozenset()) -> Advice:
    """What suits the machine under this policy; ``ours``: the lines of its environment that the guard set."""
    server = machine.server
    owners = owners_environment(server, ours)
    limit = container_limit(machine, policy)
    room = room_of(machine, policy, owners, limit)
    models = sorted(machine.models or (), key=lambda m: (room.takes(m), m.name))
    context = _context(models, room)
    if context is not None and context.key not in owners:
        room = replace(room, context=int(context.value))
    tiers = tiers_of(models, room)
    wanted = [_cache(machine, room), _loaded(machine, tiers, room), _parallel(models, room), context]
    lines = tuple(line for line in wanted if line is not None and line.key not in owners)
    notes = [note for line in wanted if line is not None for note in _standing(line, owners)]
    return Advice(
        capacity_bytes=room.capacity_bytes,
        room_bytes=room.room_bytes,
        context_tokens=room.context,
        tiers=tiers,
        environment=lines,
        memory_limit_bytes=limit,
        limit_why=_limit_why(machine, policy, limit),
        continues=_continues(server),
        notes=(*notes, *_dead(owners), *_crowded(machine, limit), *_cut_off(machine, policy)),
    )


def owners_environment(server: Server | None, ours: frozenset[tuple[str, str]]) -> dict[str, str]:
    """What the owner has set: the server's environment without the lines that the guard wrote itself."""
    said = (server.environment if server else None) or {}
    return {key: value for key, value in said.items() if value.strip() and (key, value) not in ours}


# --- one line each -----------------------------------------------------------------------------------


def _cache(machine: Machine, room: Room) -> Line | None:
    if has_prompt_cache(machine.version) is False:
        return None
    mib = cache_mib(room.capacity_bytes)
    since = "" if machine.version else " (if it is 0.30 or later: its version is not known)"
    return Line(
        "LLAMA_ARG_CACHE_RAM",
        str(mib),
        f"MiB of prompt cache of each runner{since}. Unset it is {UNBOUNDED_CACHE_MIB} MiB beside the"
        " weights, which"
        f" `ollama ps` does not show and only an unload frees: with {AUTO_LOADED} models"
        f" {bytes_text(AUTO_LOADED * UNBOUNDED_CACHE_MIB * MIB)}, and there are"
        f" {bytes_text(room.capacity_bytes)}",
    )


def _loaded(machine: Machine, tiers: Sequence[Tier], room: Room) -> Line | None:
    unset = f"Unset it is {AUTO_LOADED} on a machine without GPU, whatever they take"
    if not machine.models:
        if room.capacity_bytes >= ONE_MODEL_BELOW_BYTES:
            return None
        why = f"models that stay loaded. {bytes_text(room.capacity_bytes)} seldom hold two. {unset}"
        return Line("OLLAMA_MAX_LOADED_MODELS", "1", why)
    fitting = [tier for tier in tiers if tier.fits in (Fits.TOGETHER, Fits.ALONE)]
    largest = sorted(fitting, key=lambda tier: -tier.needs_bytes)
    most, taken = 0, 0
    for tier in largest:
        taken += room.takes(tier.model)
        if taken > room.room_bytes:
            break
        most += 1
    if fitting and most >= min(AUTO_LOADED, len(fitting)):
        return None
    most = max(1, most)
    beyond = largest[: most + 1] or list(tiers[:2])
    names = " and ".join(tier.model.name for tier in beyond)
    sum_bytes = sum(room.takes(tier.model) for tier in beyond)
    why = (
        f"models that stay loaded. {names} would take {bytes_text(sum_bytes)} of the"
        f" {bytes_text(room.room_bytes)} there are for models. {unset}"
    )
    return Line("OLLAMA_MAX_LOADED_MODELS", str(most), why)


def _parallel(models: Sequence[Installed], room: Room) -> Line:
    one = replace(room, parallel=1)
    costly = max(models, key=one.kv_bytes, default=None)
    each = bytes_text(one.kv_bytes(costly)) if costly else ""
    example = f": {each} each for {costly.name}" if costly and costly.kv_bytes_per_token else ""
    why = f"requests answered at once by one model. Each further one is a KV cache more{example}"
    return Line("OLLAMA_NUM_PARALLEL", "1", why)


def _context(models: Sequence[Installed], room: Room) -> Line | None:
    """A shorter default context, where that lets more models fit; the longest that does."""
    best, most = room.context, room.fitting(models)
    shorter = room.context // 2
    while shorter >= LEAST_CONTEXT_TOKENS:
        if room.fitting(models, shorter) > most:
            best, most = shorter, room.fitting(models, shorter)
        shorter //= 2
    if best == room.context:
        return None
    gains = next(m for m in models if room.takes(m, best) <= room.room_bytes < room.takes(m))
    why = (
        f"tokens of context unless a client asks for another. With {room.context} {gains.name} takes"
        f" {bytes_text(room.takes(gains))} of the {bytes_text(room.room_bytes)} there are for models, with"
        f" {best}"
        f" {bytes_text(room.takes(gains, best))}"
    )
    return Line("OLLAMA_CONTEXT_LENGTH", str(best), why)


# --- what is said, and nobody changes ----------------------------------------------------------------


def _standing(line: Line, owners: Mapping[str, str]) -> list[str]:
    """Where the owner has set more than is advised: said, never overruled."""
    if line.key not in owners:
        return []
    said = owners[line.key]
    number = positive(said)
    unbounded = number == 0 and not (line.key == "LLAMA_ARG_CACHE_RAM" and said.strip() == "0")
    if number <= int(line.value) and not unbounded:
        return []
    return [f"{line.key}={said} is yours and stays. {line.value} is advised: {line.why}"]


def _dead(owners: Mapping[str, str]) -> list[str]:
    if "OLLAMA_MAX_VRAM" not in owners:
        return []
    said = owners["OLLAMA_MAX_VRAM"]
    text = (
        f"OLLAMA_MAX_VRAM={said} does nothing: Ollama has not read it since 0.2.8, and it never limited the"
        " machine's memory. The lines above do what it promised; take it away"
    )
    return [text]


def _crowded(machine: Machine, limit: int | None) -> list[str]:
    held = sum(neighbour.bytes for neighbour in machine.neighbours)
    if limit is None or held <= machine.total_bytes - limit:
        return []
    named = ", ".join(f"{n.name} {bytes_text(n.bytes)}" for n in machine.neighbours[:3])
    text = (
        f"others hold {bytes_text(held)} now ({named}), more than the"
        f" {bytes_text(machine.total_bytes - limit)} that"
        f" a limit of {bytes_text(limit)} leaves them: set a lower one yourself if that is usual"
    )
    return [text]


def _cut_off(machine: Machine, policy: Policy) -> list[str]:
    """What the guard's own unit keeps it from: it reaches loopback alone."""
    said = (("url", machine.url or policy.ollama.url), ("webhook", policy.notify.webhook))
    return [
        f"the {key} is not on 127.0.0.1, and the guard's unit reaches nothing else, not even this machine's"
        " other addresses: take its drop-in network.conf (docs/install.md)"
        for key, url in said
        if url and not on_loopback(url)
    ]


def _limit_why(machine: Machine, policy: Policy, limit: int | None) -> str:
    if limit is None:
        return ""
    free = policy.host.bytes_of(Level.SOFT, machine.total_bytes)
    others = machine.total_bytes - free - limit
    return (
        f"of {bytes_text(machine.total_bytes)}: {bytes_text(free)} stay free and {bytes_text(others)} are"
        " for others."
        " Ollama tests no memory before it loads a model on a CPU, so without a limit it takes what others"
        " need"
    )


def _continues(server: Server | None) -> str:
    if server is None or server.kind is not RuntimeKind.SYSTEMD:
        return ""
    return (
        "when the kernel kills one model's process, systemd would stop the whole service and start it anew:"
        " every"
        " other model and every running answer lost"
    )
