"""How much of a machine models may take, and which of them fit into that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ollama_guard.core.foreseen import CACHE_SHARES
from ollama_guard.core.machine import Installed, Machine, Server
from ollama_guard.core.model import Level
from ollama_guard.core.policy import MIB, Policy, spelled
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import context_tokens, has_prompt_cache, positive
from ollama_guard.core.tiers import Tier as OwnersTier

# llama.cpp's own bound of each runner's prompt cache (MiB; facts 3.3).
UNBOUNDED_CACHE_MIB = 8192
# A 32nd of the memory: 128 MiB of 4 GiB holds a prompt of a thousand tokens of a 3B model, and three runners
# with it take less than a tenth. From 64 MiB (less holds no prompt at all) to 1 GiB.
CACHE_SHARE, LEAST_CACHE_MIB, MOST_CACHE_MIB = 1 / 32, 64, 1024
# The shortest context that a chat still works with (tokens), Ollama's own default before 0.6.
LEAST_CONTEXT_TOKENS = 2048
# Models that Ollama keeps at once if nobody says (facts 2.5), on a machine without GPU.
AUTO_LOADED = 3
# What is left for everybody else beside a limited container: an eighth, and at least what a system with its
# containers needs to stay quick. The soft threshold stays free besides.
OTHERS_SHARE, LEAST_OTHERS_BYTES = 1 / 8, 512 * MIB


class Fits(StrEnum):
    """How far a model fits into a machine."""

    TOGETHER = "together"
    """With every smaller one beside it."""
    ALONE = "alone"
    TIGHT = "tight"
    """Only below the soft threshold: it would be unloaded whenever it is idle."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Tier:
    """One model among the others, small to large; ``needs_bytes`` without its prompt cache."""

    model: Installed
    needs_bytes: int
    fits: Fits


@dataclass(frozen=True, slots=True)
class Room:
    """The memory that models may take, and the bounds of each runner: as the owner set them, else as advised.

    ``bound_bytes`` is the most that one model can have: what is left above critical. ``kv_share`` is what the
    KV cache's type takes of one of f16.
    """

    capacity_bytes: int
    room_bytes: int
    bound_bytes: int
    cache_bytes: int
    context: int
    parallel: int
    kv_share: float = 1.0

    def kv_bytes(self, model: Installed) -> int:
        """Its KV cache."""
        return model.cache_bytes(self.context, self.parallel, self.kv_share)

    def needs(self, model: Installed, context: int | None = None) -> int:
        """What it takes when loaded, without a prompt cache."""
        return model.needs_bytes(context or self.context, self.parallel, self.kv_share)

    def takes(self, model: Installed, context: int | None = None) -> int:
        """What its runner may grow to."""
        return self.needs(model, context) + self.cache_bytes

    def fitting(self, models: Iterable[Installed], context: int | None = None) -> int:
        """How many of them fit, each alone."""
        return sum(self.takes(model, context) <= self.room_bytes for model in models)


def container_limit(machine: Machine, policy: Policy) -> int | None:
    """The memory limit that a container without one should get, in whole MiB; None where none is advised.

    One that is just so is advised again: it is the guard's own.
    """
    server = machine.server
    if server is None or server.kind is not RuntimeKind.DOCKER:
        return None
    limit = largest_limit(machine, policy)
    owners = server.container.memory_limit_bytes if server.container else None
    free_to_set = owners is None or owners >= machine.total_bytes or owners == limit
    return limit if limit > 0 and free_to_set else None


def largest_limit(machine: Machine, policy: Policy) -> int:
    """The largest memory limit that leaves the machine and its other inhabitants their share; whole MiB."""
    others = max(int(machine.total_bytes * OTHERS_SHARE), LEAST_OTHERS_BYTES)
    free = policy.host.bytes_of(Level.SOFT, machine.total_bytes)
    return (machine.total_bytes - free - others) // MIB * MIB


def loads_at_once(server: Server) -> int:
    """How many models it keeps loaded at once by its settings, on a machine without GPU (facts 2.5)."""
    return positive(server.says("OLLAMA_MAX_LOADED_MODELS")) or AUTO_LOADED


def most_at_once(machine: Machine, policy: Policy) -> int:
    """How many of the models that fit at all fit together whichever they are, 1 at least.

    Where all fit, or only one is there or none is known, that is as many as Ollama would keep: no bound is
    needed.
    """
    server = machine.server
    enough = loads_at_once(server) if server else AUTO_LOADED
    owners = (server.environment if server else None) or {}
    room = room_of(machine, policy, owners, container_limit(machine, policy))
    takes = sorted((room.takes(model) for model in machine.models or ()), reverse=True)
    fitting = [size for size in takes if size <= room.room_bytes]
    together = [sum(fitting[: count + 1]) <= room.room_bytes for count in range(len(fitting))]
    if not fitting:
        return min(enough, 1) if len(takes) > 1 else enough
    return enough if all(together) else max(1, together.index(False))


def tier_bytes(machine: Machine, tier: OwnersTier) -> int | None:
    """What a tier of the owner's ladder takes when loaded: what they expect, else what its model does."""
    if tier.memory_bytes is not None:
        return tier.memory_bytes
    named = [model for model in machine.models or () if spelled(tier.model) in map(spelled, model.names)]
    said = (machine.server.environment if machine.server else None) or {}
    return named[0].needs_bytes(context_tokens(said), kv_share=kv_share(said)) if named else None


def kv_share(environment: Mapping[str, str]) -> float:
    """What a KV cache of the type in this environment takes of one of f16; one of no known type, as much."""
    return CACHE_SHARES.get(environment.get("OLLAMA_KV_CACHE_TYPE", "").strip().strip("\"'"), 1.0)


def room_of(machine: Machine, policy: Policy, owners: Mapping[str, str], limit: int | None) -> Room:
    """The room of a machine; ``limit`` is one that is advised, ``owners`` the environment that is theirs."""
    capacity = machine.capacity_bytes if limit is None else min(limit, machine.capacity_bytes)
    free = policy.host.bytes_of(Level.SOFT, machine.total_bytes)
    critical = policy.host.bytes_of(Level.CRITICAL, machine.total_bytes)
    room, bound = machine.total_bytes - free, machine.total_bytes - critical
    if capacity < machine.total_bytes:
        room = min(room, capacity - policy.container.bytes_of(Level.SOFT, capacity))
        bound = min(bound, capacity - policy.container.bytes_of(Level.CRITICAL, capacity))
    said = owners.get("LLAMA_ARG_CACHE_RAM", "")
    mib = positive(said) if said else cache_mib(capacity)
    cached = has_prompt_cache(machine.version) is not False and said != "0"
    return Room(
        capacity_bytes=capacity,
        room_bytes=room,
        bound_bytes=bound,
        cache_bytes=(mib or UNBOUNDED_CACHE_MIB) * MIB if cached else 0,
        context=context_tokens(owners),
        parallel=positive(owners.get("OLLAMA_NUM_PARALLEL", "")) or 1,
        kv_share=kv_share(owners),
    )


def cache_mib(capacity_bytes: int) -> int:
    """The bound of a runner's prompt cache that suits so much memory, in MiB, in steps of 64."""
    wanted = int(capacity_bytes / MIB * CACHE_SHARE) // LEAST_CACHE_MIB * LEAST_CACHE_MIB
    return min(max(wanted, LEAST_CACHE_MIB), MOST_CACHE_MIB)


def tiers_of(models: Sequence[Installed], room: Room) -> tuple[Tier, ...]:
    """How far each model fits; they come small to large."""
    tiers, taken = [], 0
    for model in models:
        needs = room.needs(model)
        taken += room.takes(model)
        if needs > room.bound_bytes:
            fits = Fits.NEVER
        elif room.takes(model) > room.room_bytes:
            fits = Fits.TIGHT
        else:
            fits = Fits.TOGETHER if taken <= room.room_bytes else Fits.ALONE
        tiers.append(Tier(model, needs, fits))
    return tuple(tiers)
