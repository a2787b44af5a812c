"""What is wrong with the memory limits around Ollama; part of `checkup`."""

from __future__ import annotations

from collections.abc import Iterator

from ollama_guard.core.checks import Check
from ollama_guard.core.finding import Finding, Severity, set_environment
from ollama_guard.core.machine import Machine, Server
from ollama_guard.core.mending import (
    keep_from_swap,
    kernel_argument,
    no_throttle,
    set_limit,
    with_memory_cgroups,
)
from ollama_guard.core.model import Level
from ollama_guard.core.policy import MIB, Policy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import tests_memory
from ollama_guard.core.sizing import largest_limit, loads_at_once, most_at_once, tier_bytes
from ollama_guard.core.units import bytes_text

# The first kernel whose memory.high throttles in proportion and lets a task go on (design, of 2020).
_HIGH_SINCE = (5, 9)


def limited(machine: Machine) -> Iterator[tuple[Server, int]]:
    """Each server below whose memory limit the machine still has memory, with that limit."""
    for server in machine.servers:
        if server.limit_bytes is not None and server.limit_bytes < machine.total_bytes:
            yield server, server.limit_bytes


def too_large(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """A limit that never holds; the one that a container should have is for `unlimited` to say."""
    wanted = largest_limit(machine, policy)
    for server in machine.servers:
        limit = server.limit_bytes
        if limit is None or limit <= machine.total_bytes or wanted <= 0:
            continue
        yield Finding(
            Check.LIMIT,
            f"{server.title} is limited to {bytes_text(limit)}, more than the machine's"
            f" {bytes_text(machine.total_bytes)}",
            "that limit never holds: the machine is out of memory first, and everybody on it with it",
            set_limit(server, wanted),
        )


def unlimited(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """A container that may take everything, where there is a limit that leaves the others enough."""
    limit = largest_limit(machine, policy)
    for server in machine.servers:
        if server.kind is not RuntimeKind.DOCKER or server.limit_bytes is not None or limit <= 0:
            continue
        if server.container is None or server.container.memory_limit_bytes is not None:
            continue  # Docker could not be asked, or knows of one that its cgroup did not show here
        yield Finding(
            Check.NO_LIMIT,
            f"{server.title} has no memory limit on a machine of {bytes_text(machine.total_bytes)}",
            "what it takes, everybody else loses: on a CPU Ollama tests no memory before it loads a model."
            f" With {bytes_text(limit)} the soft threshold and an eighth of the memory stay for the others",
            with_memory_cgroups(machine.kernel, set_limit(server, limit)),
        )


def below_tiers(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """A limit into which the largest rung of the owner's ladder can't fit."""
    sized = [(tier, size) for tier in policy.tiers if (size := tier_bytes(machine, tier)) is not None]
    if not sized:
        return
    tier, needs = max(sized, key=lambda pair: pair[1])
    for server, limit in limited(machine):
        if needs <= limit - policy.container.bytes_of(Level.CRITICAL, limit):
            continue
        wanted = -(-_limit_for(needs, policy) // (256 * MIB)) * 256 * MIB
        fits = wanted <= largest_limit(machine, policy)
        yield Finding(
            Check.TIER_LIMIT,
            f"{server.title} is limited to {bytes_text(limit)}, and the tier {tier.name} ({tier.model})"
            f" takes {bytes_text(needs)}",
            "each request for that tier ends in a load that the guard aborts, or the kernel kills",
            set_limit(server, wanted)
            if fits
            else f'take the [[tiers]] table with name = "{tier.name}" out of the guard\'s configuration'
            " (this machine can't give it a larger limit), then: systemctl reload ollama-guard",
        )


def _limit_for(needs_bytes: int, policy: Policy) -> int:
    """The smallest limit (bytes) in which so much leaves the soft threshold free, within a step of 64 MiB."""
    limit = needs_bytes
    while limit - policy.container.bytes_of(Level.SOFT, limit) < needs_bytes:
        limit += 64 * MIB
    return limit


def unseen(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """A limit that Ollama does not reckon with, while it may load more than fits below it (facts 3.1)."""
    server = machine.server
    if server is None or server.limit_seen is not False or not machine.limited:
        return
    fits, allowed = most_at_once(machine, policy), loads_at_once(server)
    if allowed <= fits:
        return
    tests = tests_memory(machine.version)
    how = (
        "it compares each load with the whole machine's memory instead"
        if tests
        else "it tests no memory before a load anyway, and what it logs and places by is the whole machine's"
    )
    yield Finding(
        Check.UNSEEN_LIMIT,
        f"{server.title} is limited to {bytes_text(server.limit_bytes or 0)} by a cgroup limit that Ollama"
        f" can't see, and may keep {allowed} models loaded where {fits} fit",
        f"{how}: the kernel kills its models at the limit",
        set_environment(server, "OLLAMA_MAX_LOADED_MODELS", str(fits)),
        Severity.SERIOUS if tests else Severity.ADVICE,
    )


def throttled(machine: Machine) -> Iterator[Finding]:
    """memory.high on a kernel that throttles without an end."""
    version = machine.kernel.version
    if version is None or version >= _HIGH_SINCE:
        return
    for server in machine.servers:
        if server.high_bytes is None:
            continue
        yield Finding(
            Check.MEMORY_HIGH,
            f"memory.high of {server.title} is {bytes_text(server.high_bytes)}, and this kernel is"
            f" {machine.kernel.release}",
            "before 5.9 the kernel holds whoever is above it up without an end: Ollama stands still, can't"
            " answer and can't be asked to unload",
            no_throttle(server),
        )


def swap_unbounded(machine: Machine) -> Iterator[Finding]:
    """A limit beside which swap is open: at it Ollama spills instead of staying below."""
    if machine.swap_bytes <= 0:
        return
    for server, limit in limited(machine):
        allowed, there = server.swap_allowed_bytes, machine.swap_bytes
        if allowed is None or allowed < min(there, limit):
            continue  # Docker's own, unasked, is as much swap as memory
        yield Finding(
            Check.SWAP_UNBOUNDED,
            f"{server.title} is limited to {bytes_text(limit)} of memory, and may take"
            f" {bytes_text(min(allowed, there))} of the {bytes_text(there)} of swap besides",
            "at its limit models spill into swap: every answer then waits for it, and the guard sees"
            " memory that is never short",
            keep_from_swap(server, limit, machine.kernel, machine.kernel.swaps),
        )


def swap_uncounted(machine: Machine) -> Iterator[Finding]:
    """A kernel that can't bound swap at all."""
    for server, limit in limited(machine):
        if machine.swap_bytes <= 0 or server.swap_limited is not False:
            continue
        yield Finding(
            Check.SWAP_ACCOUNTING,
            f"this kernel does not count the swap of {server.title}",
            f"its limit of {bytes_text(limit)} bounds memory alone: models spill into the"
            f" {bytes_text(machine.swap_bytes)} of swap, and every answer then waits for the disk",
            kernel_argument("swapaccount=1"),
        )
