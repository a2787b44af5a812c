"""Runners that the kernel killed: gone without our doing while the count of OOM kills that is theirs rose.

The count of a runner's container is of its own members. The host's is of every process on the machine, also
of a neighbour that runs into its own limit again and again: it tells something of a runner only where no
nearer count can be read, and while the host itself was short.

Each is a strike like a kill of ours, so that a client who asks again and again for what can't fit is stopped
at birth. The kernel kills long before a model has all that it needs, so what it held tells too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ollama_guard.core import condemned
from ollama_guard.core.model import (
    CONTAINER,
    HOST,
    Action,
    ActionKind,
    DomainReading,
    Level,
    Outcome,
    Snapshot,
)
from ollama_guard.core.policy import Policy
from ollama_guard.core.recovery import Death, Symptoms
from ollama_guard.core.runners import FRESH_SECONDS, names_of
from ollama_guard.core.state import Durable, RunnerState, State, Strike

# The kernel's count and the end of the process are seen this far apart at most (seconds): a rest is 3 s.
PAIRED_SECONDS = 5.0
# Times of OOM kills that are remembered.
KEPT = 16
# Actions that end every runner of a server, and those that end whatever runs a blob.
ENDS_ALL = (ActionKind.STOP, ActionKind.KILL_SERVER, ActionKind.RESTART)
ENDS_BLOB = (ActionKind.UNLOAD, ActionKind.PURGE_GHOST)


def review(before: State, after: State, snapshot: Snapshot) -> Symptoms:
    """The symptoms with this tick's OOM kills and deaths, paired as far as they can be.

    ``before`` is the state of the last tick, of which ``after`` has the runners that still live.
    """
    symptoms, now = after.symptoms, snapshot.now
    counts = {d.name: d.oom_kills for d in snapshot.domains if d.oom_kills is not None}
    old = symptoms.oom_kills
    risen = {name: count - old[name] for name, count in counts.items() if count > old.get(name, count)}
    if HOST in risen and not _host_is_short(before, after, now):
        del risen[HOST]
    gone = before.runners if after.runners is not before.runners else ()
    alive = {(runner.pid, runner.start_ticks) for runner in after.runners} if gone else set()
    lost = [past for past in gone if (past.pid, past.start_ticks) not in alive]
    quiet = not (risen or lost or symptoms.deaths or symptoms.unclaimed or symptoms.killed)
    if quiet:
        return symptoms if counts == old else replace(symptoms, oom_kills=counts)
    deaths = [d for d in symptoms.deaths if now - d.at <= PAIRED_SECONDS]
    deaths += [
        _death(past, before, snapshot) for past in lost if past.blob and not _explained(past, before, now)
    ]
    unclaimed = [(name, at) for name, at in symptoms.unclaimed if now - at <= PAIRED_SECONDS]
    unclaimed += [(name, now) for name, count in risen.items() for _ in range(min(count, KEPT))]
    killed, deaths, unclaimed = _paired(deaths, unclaimed, counts)
    news = min(max(risen.values(), default=0), KEPT)
    return replace(
        symptoms,
        oom_kills=counts,
        oom_at=(*symptoms.oom_at, *([now] * news))[-KEPT:],
        unclaimed=tuple(unclaimed)[-2 * KEPT :],
        deaths=tuple(deaths)[-KEPT:],
        killed=tuple(killed),
    )


def _host_is_short(before: State, after: State, now: float) -> bool:
    """Whether the host was below a threshold at this tick, the last one, or a moment ago.

    Its level alone tells too little: it comes after soft's grace, and lingers for a transition.
    """
    for host in (before.domains.get(HOST), after.domains.get(HOST)):
        if host is None:
            continue
        lately = host.calm_since_at is None or now - host.calm_since_at <= PAIRED_SECONDS
        if host.raw > Level.OK or (host.level > Level.OK and lately):
            return True
    return False


def _paired(
    deaths: list[Death], unclaimed: list[tuple[str, float]], counts: Mapping[str, int]
) -> tuple[list[Death], list[Death], list[tuple[str, float]]]:
    """The deaths that an OOM kill explains, those that wait for one, and the kills that are left."""
    killed, waiting, left = [], [], list(unclaimed)
    for death in deaths:
        nearest = [name for name in death.domains if name != HOST and name in counts] or [HOST]
        kill = next((pair for pair in left if pair[0] in nearest), None)
        if kill is None:
            waiting.append(death)
        else:
            left.remove(kill)
            killed.append(death)
    return killed, waiting, left


def after(durable: Durable, killed: tuple[Death, ...], now: float, policy: Policy) -> Durable:
    """The durable state with a strike for each runner that the kernel killed, maybe convictions."""
    for death in killed:
        strike = Strike(death.blob, now, death.needs_bytes, death.context_tokens)
        durable = condemned.struck(durable, strike, death.names, policy)
    return durable


def _explained(past: RunnerState, before: State, now: float) -> bool:
    """Whether this end is no news: we had asked for it, or the runner was idle and its time was over."""
    if any(_ends(action, past) for action in before.in_flight):
        return True
    if any(_ended(action, outcome, past, now) for action, outcome in before.finished):
        return True
    idle = past.loaded_at is not None and past.busy_since_at is None
    return idle and past.expires_at is not None and past.expires_at <= now


def _ended(action: Action, outcome: Outcome, past: RunnerState, now: float) -> bool:
    """An end may be seen a moment after its outcome; one that was asked of this very process, whenever."""
    own = action.key == (past.pid, past.start_ticks)
    return own or (now - outcome.at <= PAIRED_SECONDS and _ends(action, past))


def _ends(action: Action, past: RunnerState) -> bool:
    return (
        action.key == (past.pid, past.start_ticks)
        or action.kind in ENDS_ALL
        or (action.kind in ENDS_BLOB and action.blob == past.blob)
    )


def _death(past: RunnerState, before: State, snapshot: Snapshot) -> Death:
    """What is known of a dead runner: the larger of what it held and what its command line says.

    In a container that the guard did not limit it needed at least what was left for it, or it would live. One
    that was loaded long ago may have died of its prompt cache: of that a load needs nothing.
    """
    needs = past.needs_bytes or past.peak_bytes
    if past.loaded_at is None or snapshot.now - past.loaded_at < FRESH_SECONDS:
        left = 0
        domain = next((d for d in snapshot.domains if d.name == CONTAINER), None)
        if domain is not None and CONTAINER in past.domains and before.durable.constrained is None:
            left = _left_bytes(domain, past, before)
        needs = max(needs, past.peak_bytes, left)
    return Death(
        blob=past.blob or "",
        names=names_of(past.blob, snapshot)[: condemned.NAMES_KEPT],
        at=snapshot.now,
        needs_bytes=needs,
        held_bytes=past.peak_bytes,
        domains=past.domains,
        context_tokens=past.footprint.context_tokens if past.footprint is not None else 0,
    )


def _left_bytes(domain: DomainReading, past: RunnerState, before: State) -> int:
    """What it held and what was still available when both were last seen."""
    rose = (domain.oom_kills or 0) > before.symptoms.oom_kills.get(domain.name, domain.oom_kills or 0)
    known = before.domains.get(CONTAINER)
    available = known.samples[-1][1] if known is not None and known.samples else None
    return past.peak_bytes + available if rose and available is not None else 0
