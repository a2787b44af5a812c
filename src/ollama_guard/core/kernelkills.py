"""Runners that the kernel killed: gone without our doing while a domain's count of OOM kills rose.

Each is a strike like a kill of ours, so that a client who asks again and again for what can't fit is stopped
at birth. The kernel kills long before a model has all that it needs, so what it held tells too little.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import condemned
from ollama_guard.core.model import CONTAINER, DomainReading, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.recovery import Death, Symptoms
from ollama_guard.core.runners import names_of
from ollama_guard.core.state import Durable, RunnerState, State

# The kernel's count and the end of the process are seen this far apart at most (seconds): a rest is 3 s.
PAIRED_SECONDS = 5.0
# Times of OOM kills that are remembered.
KEPT = 16


def review(before: State, after: State, snapshot: Snapshot) -> Symptoms:
    """The symptoms with this tick's OOM kills and deaths, paired as far as they can be.

    ``before`` is the state of the last tick, of which ``after`` has the runners that still live.
    """
    symptoms, now = after.symptoms, snapshot.now
    counts = {d.name: d.oom_kills for d in snapshot.domains if d.oom_kills is not None}
    old = symptoms.oom_kills
    risen = max((count - old[name] for name, count in counts.items() if name in old), default=0)
    gone = before.runners if after.runners is not before.runners else ()
    alive = {(runner.pid, runner.start_ticks) for runner in after.runners} if gone else set()
    lost = [past for past in gone if (past.pid, past.start_ticks) not in alive]
    quiet = not (risen > 0 or lost or symptoms.deaths or symptoms.unclaimed or symptoms.killed)
    if quiet:
        return symptoms if counts == old else replace(symptoms, oom_kills=counts)
    deaths = [d for d in symptoms.deaths if now - d.at <= PAIRED_SECONDS]
    deaths += [_death(past, before, snapshot) for past in lost if past.blob and not _ours(past, before)]
    news = min(max(risen, 0), KEPT)
    unclaimed = [at for at in symptoms.unclaimed if now - at <= PAIRED_SECONDS] + [now] * news
    pairs = min(len(deaths), len(unclaimed))
    killed, deaths = deaths[:pairs], deaths[pairs:]
    return replace(
        symptoms,
        oom_kills=counts,
        oom_at=(*symptoms.oom_at, *([now] * news))[-KEPT:],
        unclaimed=tuple(unclaimed[pairs:])[-KEPT:],
        deaths=tuple(deaths)[-KEPT:],
        killed=tuple(killed),
    )


def after(durable: Durable, killed: tuple[Death, ...], now: float, policy: Policy) -> Durable:
    """The durable state with a strike for each runner that the kernel killed, maybe convictions."""
    for death in killed:
        durable = condemned.struck(durable, death.blob, death.names, death.needs_bytes, now, policy)
    return durable


def _ours(past: RunnerState, before: State) -> bool:
    """Whether an action of ours was about this runner, so that its end is no news."""
    key = (past.pid, past.start_ticks)
    return any(action.key == key for action in before.in_flight) or any(
        action.key == key for action, _ in before.finished
    )


def _death(past: RunnerState, before: State, snapshot: Snapshot) -> Death:
    """What is known of a dead runner: the larger of what it held and what its command line says.

    In a container that the guard did not limit it needed at least what the others left it, or it would live.
    """
    left = 0
    domain = next((d for d in snapshot.domains if d.name == CONTAINER), None)
    if domain is not None and CONTAINER in past.domains and before.durable.constrained is None:
        left = _left_bytes(domain, past, before)
    return Death(
        blob=past.blob or "",
        names=names_of(past.blob, snapshot)[: condemned.NAMES_KEPT],
        at=snapshot.now,
        needs_bytes=max(past.peak_bytes, past.needs_bytes or 0, left),
        held_bytes=past.peak_bytes,
        domains=past.domains,
    )


def _left_bytes(domain: DomainReading, past: RunnerState, before: State) -> int:
    rose = (domain.oom_kills or 0) > before.symptoms.oom_kills.get(domain.name, domain.oom_kills or 0)
    others = sum(
        runner.peak_bytes
        for runner in before.runners
        if (runner.pid, runner.start_ticks) != (past.pid, past.start_ticks) and CONTAINER in runner.domains
    )
    return max(0, (domain.capacity_bytes or 0) - others) if rose else 0
