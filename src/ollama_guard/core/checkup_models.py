"""What is wrong with models and their processes: too large, too many, lost, bloated; part of `checkup`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ollama_guard.core.checks import Check
from ollama_guard.core.checkup_guard import GuardFacts
from ollama_guard.core.finding import Finding, Severity, ask, set_environment, set_variables
from ollama_guard.core.foreseen import DEFAULT_CONTEXT_TOKENS
from ollama_guard.core.machine import Installed, Machine, Reloads
from ollama_guard.core.naming import parse
from ollama_guard.core.policy import MIB, Policy
from ollama_guard.core.said import has_prompt_cache, positive, tests_memory
from ollama_guard.core.sizing import (
    AUTO_LOADED,
    LEAST_CONTEXT_TOKENS,
    UNBOUNDED_CACHE_MIB,
    Fits,
    Room,
    most_at_once,
    room_of,
    tiers_of,
)
from ollama_guard.core.units import bytes_text, count_text

# The share of what there is for models from which on the KV caches of all slots are worth a word: with less
# the weights are what matters.
LARGE_CACHE_SHARE = 1 / 4
# What a runner holds beside `ollama ps` and its prompt cache: checkpoints and "some hundred MB" (facts 3.3).
# Above a quarter of its size, and 512 MiB at least, it is neither.
BESIDE_SHARE, LEAST_BESIDE_BYTES = 1 / 4, 512 * MIB
# Loads of each context, more than a person's own changes of mind come to; and the share of uses that were
# loads: in a thrash nearly each is, with clients that agree nearly none.
LEAST_RELOADS, RELOADED_SHARE = 3, 1 / 2


def visible(machine: Machine) -> Iterator[Installed]:
    """The installed models that clients can ask for, without the names under which some are hidden."""
    for model in machine.models or ():
        names = tuple(name for name in model.names if not ((read := parse(name)) and read.hidden))
        if names:
            yield replace(model, names=names)


def _room(machine: Machine, policy: Policy) -> Room:
    server = machine.server
    return room_of(machine, policy, (server.environment if server else None) or {}, None)


def _on_cpu(machine: Machine) -> bool:
    return machine.server is None or not machine.server.gpu


def never_fits(machine: Machine, guard: GuardFacts, policy: Policy) -> Iterator[Finding]:
    """A model that can't fit even alone, with one slot and no more context than Ollama's own default."""
    if not _on_cpu(machine):
        return
    room = _room(machine, policy)
    least = replace(room, context=min(room.context, DEFAULT_CONTEXT_TOKENS), parallel=1)
    for tier in tiers_of(tuple(visible(machine)), least):
        if tier.fits is not Fits.NEVER:
            continue
        name = shlex.quote(tier.model.name)
        hides = guard.answers is not False and len(machine.servers) == 1
        yield Finding(
            Check.NEVER_FITS,
            f"{tier.model.name} takes {bytes_text(tier.needs_bytes)} with {least.context} tokens of context,"
            f" and one model can have {bytes_text(room.bound_bytes)} here",
            "whoever asks for it fills the memory until a process is killed, and does so again with the"
            " next try",
            f"ollama-guard quarantine add {name} (ollama-guard quarantine restore {name} brings it back)"
            if hides
            else ask(machine.server, "rm", tier.model.name),
        )


def max_loaded(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """Three models at once, untested, where they don't fit together (facts 2.4, 2.5)."""
    server = machine.server
    if (
        server is None
        or server.environment is None
        or server.gpu
        or tests_memory(machine.version) is not False
    ):
        return
    if positive(server.says("OLLAMA_MAX_LOADED_MODELS")):
        return
    fits = most_at_once(machine, policy)
    if fits >= AUTO_LOADED:
        return
    yield Finding(
        Check.MAX_LOADED,
        f"{server.title} has no OLLAMA_MAX_LOADED_MODELS: it keeps {AUTO_LOADED} models loaded, and of the"
        f" largest, {fits} {'fits' if fits == 1 else 'fit'} at a time into"
        f" {bytes_text(_room(machine, policy).room_bytes)}",
        f"without a GPU Ollama {machine.version} tests no memory before it loads a further one: the machine"
        " finds out",
        set_environment(server, "OLLAMA_MAX_LOADED_MODELS", str(fits)),
    )


def parallel(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """KV caches of many slots, or of a long context, that take the models' room (facts 2.5)."""
    server, room = machine.server, _room(machine, policy)
    models = [model for model in visible(machine) if model.kv_bytes_per_token]
    beyond = room.parallel > 1 or room.context > DEFAULT_CONTEXT_TOKENS
    if server is None or not _on_cpu(machine) or not models or not beyond:
        return
    least = replace(room, context=min(room.context, DEFAULT_CONTEXT_TOKENS), parallel=1)
    fitting = [model for model in models if least.needs(model) <= least.bound_bytes]
    worst = max(fitting, key=room.takes, default=None)
    if worst is None or not _large(worst, room):
        return
    lost = room.needs(worst) > room.bound_bytes
    tokens = min(room.context, worst.training_context or room.context)
    each = (worst.kv_bytes_per_token or 0) * room.kv_share / 1024
    sums = (
        f"{count_text(worst.slots(room.parallel), 'slot')} x {tokens} tokens x {each:.0f} KiB ="
        f" {bytes_text(room.kv_bytes(worst))} of KV cache for {worst.name}, beside"
        f" {bytes_text(worst.size_bytes)} of weights"
    )
    yield Finding(
        Check.PARALLEL,
        f"{server.title}: {sums}, of the {bytes_text(room.room_bytes)} there are for models",
        "each slot has a KV cache of its own for the whole context, which is taken when the model is loaded,"
        " however short the requests are" + (f": {worst.name} no longer fits" if lost else ""),
        set_variables(server, dict(_smaller(fitting, room))),
        Severity.SERIOUS if lost else Severity.ADVICE,
    )


def _large(model: Installed, room: Room) -> bool:
    """Whether its KV cache is worth a word: it takes much of the room, or the model no longer fits."""
    return room.kv_bytes(model) >= LARGE_CACHE_SHARE * room.room_bytes or room.needs(model) > room.bound_bytes


def _smaller(models: Sequence[Installed], room: Room) -> Iterator[tuple[str, str]]:
    """One slot, and where that is not enough the longest context, halved from what it is, whose cache is."""
    if room.parallel > 1:
        yield "OLLAMA_NUM_PARALLEL", "1"
    one = replace(room, parallel=1)
    while one.context > LEAST_CONTEXT_TOKENS and any(_large(model, one) for model in models):
        one = replace(one, context=max(one.context // 2, LEAST_CONTEXT_TOKENS))
    if one.context < room.context and room.context > DEFAULT_CONTEXT_TOKENS:
        yield "OLLAMA_CONTEXT_LENGTH", str(one.context)


def orphans(machine: Machine) -> Iterator[Finding]:
    """Runners that outlived their server (facts 2.7)."""
    for runner in machine.runners:
        if runner.orphan:
            yield Finding(
                Check.ORPHANS,
                f"process {runner.pid} holds {bytes_text(runner.memory_bytes)} for {runner.title}, and the"
                " server that it belonged to is gone",
                "no server knows it any more: `ollama ps` does not show it, nothing unloads it, and the"
                " model's next load comes on top",
                f"kill {runner.pid}",
            )


def runner_memory(machine: Machine) -> Iterator[Finding]:
    """A runner that took far more since it was loaded than Ollama tells (facts 3.3)."""
    for runner in machine.runners:
        if runner.orphan or runner.listed_bytes is None:
            continue
        beside = max(LEAST_BESIDE_BYTES, int(BESIDE_SHARE * runner.listed_bytes))
        over = runner.memory_bytes - runner.listed_bytes
        if over <= beside + _cache_bound(machine):
            continue
        yield Finding(
            Check.RUNNER_MEMORY,
            f"{runner.title} (pid {runner.pid}) takes {bytes_text(runner.memory_bytes)}, and `ollama ps` says"
            f" {bytes_text(runner.listed_bytes)}",
            "that is fixed at the load; what a process takes later, its prompt cache above all, is told"
            " nowhere, and given back only when the model is unloaded",
            ask(machine.server, "stop", runner.name) if runner.name else f"kill {runner.pid}",
        )


def _cache_bound(machine: Machine) -> int:
    """What the owner lets the prompt cache have: growth up to it is meant. 0 where nothing bounds it."""
    said = machine.server.says("LLAMA_ARG_CACHE_RAM") if machine.server else ""
    bound = positive(said) if has_prompt_cache(machine.version) else 0
    return bound * MIB if bound < UNBOUNDED_CACHE_MIB else 0


def reload_thrash(machine: Machine) -> Iterator[Finding]:
    """Clients that disagree about num_ctx: each switch loads the whole model anew (facts 2.2)."""
    server = machine.server
    for model in machine.reloads:
        if server is None or not _thrashes(model):
            continue
        times = " and ".join(
            f"{count_text(loads, 'time')} with {tokens}"
            for tokens, loads in zip(model.contexts, model.loads, strict=True)
        )
        longest = str(max(model.contexts))
        yield Finding(
            Check.RELOAD_THRASH,
            f"{model.title} is used in turn with different contexts, and was loaded {times} tokens so far",
            "clients ask for it with another num_ctx each, and at each switch Ollama ends its process and"
            " loads it anew: seconds of waiting, and memory for both while one goes",
            f"{set_environment(server, 'OLLAMA_CONTEXT_LENGTH', longest)}; and no num_ctx in the clients,"
            f" or {longest} in all",
            Severity.ADVICE,
        )


def _thrashes(model: Reloads) -> bool:
    each = [
        loads >= LEAST_RELOADS and loads >= RELOADED_SHARE * uses
        for loads, uses in zip(model.loads, model.uses, strict=True)
    ]
    return sum(each) > 1


def aliases(machine: Machine) -> Iterator[Finding]:
    """Names that people take for models of their own (facts 2.2)."""
    for model in visible(machine):
        if len(model.names) < 2:
            continue
        names = sorted(model.names, key=lambda name: (len(name), name))
        shown = "; ".join(ask(machine.server, "show", "--modelfile", name) for name in names)
        yield Finding(
            Check.ALIASES,
            f"{' = '.join(names)}: {len(names)} names of the same {bytes_text(model.size_bytes)} of weights",
            "they share one process: whoever unloads, hides or protects one does so to all, and one that sets"
            " another num_ctx reloads it at each switch",
            f"nothing, if that is meant; but give all of them the same num_ctx (what each adds: {shown})",
            Severity.ADVICE,
        )
