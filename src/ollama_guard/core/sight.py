"""The scene of one tick: what is remembered, brought up to what is seen, and what is wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ollama_guard.core import (
    allowed,
    condemned,
    conditions,
    diagnosis,
    hardcap,
    hiding,
    kernelkills,
    recover,
    reopen,
)
from ollama_guard.core.model import Level, Snapshot
from ollama_guard.core.outcomes import without_forgotten
from ollama_guard.core.policy import Policy
from ollama_guard.core.pressure import absent, observe
from ollama_guard.core.runners import is_running, remember
from ollama_guard.core.scene import Scene, relief_seconds
from ollama_guard.core.state import DomainState, State

# A tick that comes later than this many planned delays, or by so much (seconds) after a long one, was not
# ours to choose: the guard was stalled or the machine suspended, so all durations start anew.
STALL_FACTOR = 3.0
STALL_SECONDS = 2.0
# The end of a blob's last runner is remembered this long (seconds), for its ghost in the API's list.
GONE_KEPT_SECONDS = 3600.0


def scene_of(policy: Policy, state: State, snapshot: Snapshot) -> Scene:
    """The scene of this tick: what is remembered, brought up to the snapshot."""
    before = state
    gap = 0.0 if state.last_tick_at is None else snapshot.now - state.last_tick_at
    planned = state.planned_delay_seconds
    late = gap > min(STALL_FACTOR * planned, planned + STALL_SECONDS) and gap > STALL_SECONDS
    stalled = late or gap < 0
    state = _on_time(state, gap) if stalled else without_forgotten(policy, state, snapshot.now)
    state = replace(
        state,
        started_at=snapshot.now if state.started_at is None else state.started_at,
        last_tick_at=snapshot.now,
        stalled_seconds=max(gap, 0.0) if stalled else 0.0,
        woke_at=snapshot.now if stalled else state.woke_at,
        runners=remember(snapshot, state.runners, stalled=stalled),
        gone_at=_gone(state, snapshot),
        unhonoured={blob: until for blob, until in state.unhonoured.items() if until > snapshot.now},
        servers=tuple((s.pid, s.start_ticks) for s in snapshot.servers),
    )
    scene = Scene.of(policy, state, snapshot)
    domains = _domains(scene, state.domains, stalled=stalled)
    level = max((domain.level for domain in domains.values()), default=Level.OK)
    state = replace(
        state,
        domains=domains,
        level=level,
        level_since_at=snapshot.now
        if level != state.level or not state.level_since_at
        else state.level_since_at,
    )
    return _diagnosed(replace(scene, state=state), before, stalled=stalled)


def _diagnosed(scene: Scene, before: State, *, stalled: bool) -> Scene:
    """The scene with what is wrong in it: symptoms, conditions, who is condemned, what memory calls for."""
    policy, snapshot, state = scene.policy, scene.snapshot, scene.state
    state = replace(state, symptoms=kernelkills.review(before, state, snapshot))
    durable = kernelkills.after(state.durable, state.symptoms.killed, snapshot.now, policy)
    scene = replace(scene, state=replace(state, durable=durable))
    state = replace(scene.state, symptoms=diagnosis.review(scene, scene.state.symptoms, stalled=stalled))
    state = replace(state, conditions=conditions.review(policy, state, snapshot))
    scene = replace(scene, state=state)
    state = replace(
        state,
        durable=replace(durable, condemned=condemned.review(scene)),
        calm_since_at=reopen.calm_since(scene),
        idle_since_at=reopen.idle_since(scene),
        hard_cap=hardcap.judged(scene),
        fits_since_at=hiding.fits_since(scene),
        would_at=recover.still_told(state, snapshot.now) if state.would_at else state.would_at,
    )
    scene = replace(scene, state=state)
    return replace(scene, state=allowed.review(scene, before, stalled=stalled))


def _gone(state: State, snapshot: Snapshot) -> dict[str, float]:
    """When the last runner of each blob was seen to be gone, until one is born again."""
    alive = {reading.blob for reading in snapshot.runners if is_running(reading)}
    lost = {past.blob: snapshot.now for past in state.runners if past.blob and past.blob not in alive}
    known = {**lost, **state.gone_at}
    return {
        blob: at for blob, at in known.items() if blob not in alive and snapshot.now - at < GONE_KEPT_SECONDS
    }


def _on_time(state: State, gap: float) -> State:
    """The state after a stall or suspend of ``gap`` seconds: what is in flight gets that time again."""
    lost = max(gap, 0.0)
    in_flight = tuple(replace(action, deadline_at=action.deadline_at + lost) for action in state.in_flight)
    issued_at = {number: at + lost for number, at in state.issued_at.items()}
    return replace(state, in_flight=in_flight, issued_at=issued_at)


def _domains(scene: Scene, previous: Mapping[str, DomainState], *, stalled: bool) -> dict[str, DomainState]:
    policy, domains = scene.policy, {}
    for reading in scene.snapshot.domains:
        old = previous.get(reading.name)
        if old is not None and stalled:
            old = DomainState(level=old.level, since_at=old.since_at)
        relief = relief_seconds(
            policy, scene.state.rates, scene.within(reading.name), max(0, reading.capacity_bytes or 0)
        )
        coming = scene.coming_bytes(reading.name, drains=False)
        ahead = {
            runner.key: runner.remaining_bytes for runner in scene.within(reading.name) if runner.growing
        }
        domains[reading.name] = observe(policy, old, reading, scene.now, relief, coming, ahead)
    for name, old in previous.items():
        if name not in domains and old.level > Level.OK:
            fading = absent(policy, old, scene.now)
            domains |= {name: fading} if fading.level > Level.OK else {}
    return domains
