"""What is wrong with a machine on which Ollama and the guard live, why that matters, what mends it. Pure."""

from __future__ import annotations

from itertools import chain

from ollama_guard.core import checkup_bounds as bounds
from ollama_guard.core import checkup_guard as guards
from ollama_guard.core import checkup_kernel as kernel
from ollama_guard.core import checkup_models as models
from ollama_guard.core import checkup_proxy as proxies
from ollama_guard.core import checkup_servers as servers
from ollama_guard.core.checkup_guard import GuardFacts
from ollama_guard.core.finding import Finding, Severity
from ollama_guard.core.machine import Machine
from ollama_guard.core.policy import Policy


def examine(machine: Machine, guard: GuardFacts, policy: Policy) -> tuple[Finding, ...]:
    """Everything that is found: what is serious first, each in the order in which it should be mended."""
    found = [
        *chain.from_iterable(check(machine, guard) for check in (guards.authority, guards.rights)),
        *chain.from_iterable(
            check(guard)
            for check in (guards.config, guards.unreadable, guards.running, guards.locked, guards.groups)
        ),
        *models.never_fits(machine, guard, policy),
        *chain.from_iterable(check(machine) for check in _OF_THE_MACHINE),
        *chain.from_iterable(check(machine, policy) for check in _OF_ITS_SIZE),
        *chain.from_iterable(check(machine) for check in _OF_THE_KERNEL),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity is not Severity.SERIOUS))


_OF_THE_MACHINE = (
    servers.several,
    models.orphans,
    servers.exposed,
    servers.oom_policy,
    bounds.throttled,
    bounds.swap_unbounded,
    bounds.swap_uncounted,
    servers.prompt_cache,
    servers.max_queue,
    servers.keep_alive,
    servers.max_vram,
    servers.drift,
    models.runner_memory,
    models.reload_thrash,
    models.aliases,
    proxies.litellm,
)
_OF_ITS_SIZE = (
    bounds.unlimited,
    bounds.too_large,
    bounds.below_tiers,
    bounds.unseen,
    models.max_loaded,
    models.parallel,
    kernel.slow_swap,
    kernel.zram,
)
_OF_THE_KERNEL = (
    kernel.zfs_arc,
    kernel.overcommit,
    kernel.huge_pages,
    kernel.pressure,
)
