"""`decide` and `absorb`: the guard's whole judgement, from values to values.

Precedence: the owner's word (paused, observe, ``protect = "always"``) over blind over critical.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ollama_guard.core import budgets, cap, condemned, conditions, ghosts, ladder, narrate, requests
from ollama_guard.core.model import (
    Action,
    ActionKind,
    Decision,
    Level,
    Mode,
    Outcome,
    OutcomeKind,
    Rung,
    Snapshot,
)
from ollama_guard.core.policy import Policy
from ollama_guard.core.pressure import observe
from ollama_guard.core.runners import Runner, census, remember
from ollama_guard.core.scene import Scene, expected_seconds, relief_seconds
from ollama_guard.core.state import DomainState, Durable, Rates, State

# A tick that comes later than this many planned delays, and by more than the floor (seconds), was not
# ours to choose: the guard was stalled or the machine suspended, so all durations start anew.
STALL_FACTOR = 3.0
STALL_FLOOR_SECONDS = 2.0
# An unload that was not honoured is not tried again for this long (seconds).
UNHONOURED_SECONDS = 60.0
KILL_DEADLINE_SECONDS = 10.0
# Actions without any outcome are given up this long after their deadline (seconds).
FORGOTTEN_SECONDS = 5.0
# Weight of the newest measured relief time against the past ones, and the bounds of the result.
RATE_WEIGHT = 0.3
RATE_BOUNDS = (0.2, 10.0)
FINISHED_KEPT = 16
# The sentinel may sleep this long at most, and must not spin faster than this (seconds).
LONGEST_DELAY_SECONDS = 1.0
SHORTEST_DELAY_SECONDS = 0.02
# The fastest that one process was seen to fill memory is 1.5 GiB/s; with two of them (bytes/s).
FASTEST_FILL_BYTES_PER_SECOND = 3 * 1024**3
DISRUPTIVE = (Rung.ABORT_LOAD, Rung.DRAIN_BUSY, Rung.KILL_RUNNER)


def decide(policy: Policy, state: State, snapshot: Snapshot) -> tuple[State, Decision]:
    """The next state and what to do now. Deterministic; never raises on any snapshot."""
    scene = _look(policy, state, snapshot)
    durable, replies = requests.answer(scene)
    scene = replace(scene, state=replace(scene.state, durable=durable))
    mode = mode_of(policy, durable, snapshot.now)
    by_hand = requests.unloads(scene)
    draft = by_hand.draft or _draft(scene)
    draft = draft if by_hand.draft else _blind(scene, draft)
    would = mode is not Mode.ENFORCE and bool(draft.targets or draft.ghost) and not by_hand.draft
    actions = _actions(scene, draft, by_hand.request_id)
    decision = Decision(
        at=snapshot.now,
        wall=snapshot.wall,
        level=scene.state.level,
        rung=draft.rung,
        reason=f"{'would have: ' if would else ''}{draft.reason}",
        actions=actions,
        would=would,
        disruptive=draft.rung in DISRUPTIVE,
        domain=draft.domain,
        replies=(*replies, *by_hand.replies),
    )
    return _commit(scene, decision), decision


def _draft(scene: Scene) -> ladder.Draft:
    draft = ladder.choose(scene)
    if draft.rung is not Rung.NONE:
        return draft
    ghost = ghosts.find(scene)
    if ghost is not None:
        return ladder.Draft(
            Rung.NONE, f"{ghost.name} is listed by Ollama but its runner is gone: clear it", ghost=ghost
        )
    over = cap.victims(scene)
    if over:
        bound = cap.effective(scene.policy, scene.state)
        listed = ", ".join(runner.title for runner in over)
        reason = f"{len(scene.runners)} models are loaded and the soft cap is {bound}: unload idle {listed}"
        return ladder.Draft(Rung.CAP, reason, ActionKind.UNLOAD, over, over[0].reading.domains[0])
    return draft


def _blind(scene: Scene, draft: ladder.Draft) -> ladder.Draft:
    """Blind means hold, and say so."""
    reasons = conditions.blind_reasons(scene.snapshot)
    if not reasons:
        return draft
    return ladder.Draft(Rung.HOLD, f"blind, so hold: {'; '.join(reasons)}")


def mode_of(policy: Policy, durable: Durable, now: float) -> Mode:
    """What the owner lets the guard do now."""
    if durable.pause_until_at is not None and durable.pause_until_at > now:
        return Mode.PAUSED
    return policy.ollama.mode


def _look(policy: Policy, state: State, snapshot: Snapshot) -> Scene:
    """The scene of this tick: what is remembered, brought up to the snapshot."""
    gap = 0.0 if state.last_tick_at is None else snapshot.now - state.last_tick_at
    stalled = gap > max(STALL_FACTOR * state.planned_delay_seconds, STALL_FLOOR_SECONDS) or gap < 0
    state = replace(
        state,
        started_at=snapshot.now if state.started_at is None else state.started_at,
        last_tick_at=snapshot.now,
        stalled_seconds=gap if stalled else 0.0,
        runners=remember(snapshot, state.runners, stalled=stalled),
        in_flight=tuple(a for a in state.in_flight if a.deadline_at + FORGOTTEN_SECONDS > snapshot.now),
        gone_at=_gone(state, snapshot),
        unhonoured={blob: until for blob, until in state.unhonoured.items() if until > snapshot.now},
        servers=tuple((s.pid, s.start_ticks) for s in snapshot.servers),
        server_names=tuple(s.proof for s in snapshot.servers),
    )
    scene = Scene(policy, state, snapshot, census(policy, state, snapshot))
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
    state = replace(state, conditions=conditions.review(policy, state, snapshot))
    scene = Scene(policy, state, snapshot, scene.runners)
    durable = replace(state.durable, condemned=condemned.review(scene))
    return replace(scene, state=replace(state, durable=durable))


def _gone(state: State, snapshot: Snapshot) -> dict[str, float]:
    """When the last runner of each blob was seen to be gone, until one is born again."""
    alive = {reading.blob for reading in snapshot.runners}
    lost = {past.blob: snapshot.now for past in state.runners if past.blob and past.blob not in alive}
    return {blob: at for blob, at in {**lost, **state.gone_at}.items() if blob not in alive}


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
        domains[reading.name] = observe(policy, old, reading, scene.now, relief, coming)
    return domains


def _actions(scene: Scene, draft: ladder.Draft, request_id: int | None) -> tuple[Action, ...]:
    first = scene.state.durable.next_action_id
    if draft.ghost is not None:
        deadline = scene.now + scene.policy.unload_deadline_seconds
        ghost = draft.ghost
        return (
            Action(
                id=first, kind=ActionKind.PURGE_GHOST, rung=Rung.NONE, deadline_at=deadline, blob=ghost.blob,
                model=ghost.name, names=(ghost.name,), reason=draft.reason,
            ),
        )  # fmt: skip
    return tuple(
        _action(scene, draft, runner, first + i, request_id) for i, runner in enumerate(draft.targets)
    )


def _action(scene: Scene, draft: ladder.Draft, runner: Runner, number: int, request_id: int | None) -> Action:
    policy = scene.policy
    if draft.kind is ActionKind.KILL:
        seconds = KILL_DEADLINE_SECONDS
    elif draft.rung is Rung.DRAIN_BUSY:
        seconds = policy.drain_deadline_seconds
    else:
        seconds = policy.unload_deadline_seconds
    return Action(
        id=number,
        kind=draft.kind,
        rung=draft.rung,
        deadline_at=scene.now + seconds,
        blob=runner.reading.blob,
        model=runner.names[0] if runner.names else None,
        names=runner.names,
        pid=runner.reading.pid,
        start_ticks=runner.reading.start_ticks,
        expected_bytes=runner.freeable_bytes,
        needs_bytes=max(runner.foreseen_bytes or 0, runner.freeable_bytes),
        domain=draft.domain,
        reason=draft.reason,
        request_id=request_id,
    )


def _commit(scene: Scene, decision: Decision) -> State:
    """The state after a decision: what will be done is in flight, the cap follows, ids move on."""
    state, done = scene.state, () if decision.would else decision.actions
    forced = decision.rung in cap.RELIEF and not any(a.request_id is not None for a in done)
    soft_cap, quiet = cap.adjust(scene, decision.rung if forced else Rung.NONE, len(done))
    purged = {a.blob: scene.now for a in done if a.kind is ActionKind.PURGE_GHOST and a.blob}
    issued = {str(a.id): state.issued_at.get(str(a.id), scene.now) for a in (*state.in_flight, *done)}
    state = replace(
        state,
        in_flight=(*state.in_flight, *done),
        issued_at=issued,
        purged_at={**state.purged_at, **purged},
        soft_cap=soft_cap,
        soft_cap_quiet_since_at=quiet,
        durable=replace(state.durable, next_action_id=state.durable.next_action_id + len(done)),
        hold_told_at=_hold_told_at(state, decision),
        last_decision=decision if decision.rung is not Rung.NONE or done else state.last_decision,
    )
    return replace(state, planned_delay_seconds=planned_delay(scene.policy, state, scene.snapshot))


def _hold_told_at(state: State, decision: Decision) -> float:
    """When `narrate` last told of the present hold."""
    told = narrate.tells_hold(state, decision)
    return decision.at if told else state.hold_told_at


def absorb(policy: Policy, state: State, outcome: Outcome) -> State:
    """The state after an action ended. An unknown action id changes nothing."""
    action = next((a for a in state.in_flight if a.id == outcome.action_id), None)
    if action is None:
        return state
    durable = condemned.after(state.durable, action, outcome, policy)
    durable = replace(durable, fruitless_kills=budgets.after(durable.fruitless_kills, action, outcome))
    unhonoured = dict(state.unhonoured)
    if action.kind is ActionKind.UNLOAD and action.blob and outcome.kind is OutcomeKind.FAILED:
        unhonoured[action.blob] = outcome.at + UNHONOURED_SECONDS
    return replace(
        state,
        durable=durable,
        in_flight=tuple(a for a in state.in_flight if a.id != action.id),
        finished=(*state.finished, (action, outcome))[-FINISHED_KEPT:],
        unhonoured=unhonoured,
        rates=_learn(policy, state, action, outcome),
    )


def _learn(policy: Policy, state: State, action: Action, outcome: Outcome) -> Rates:
    """Relief times as measured here, against their priors."""
    issued = state.issued_at.get(str(action.id))
    if outcome.kind is not OutcomeKind.DONE or action.rung is Rung.DRAIN_BUSY or issued is None:
        return state.rates
    prior = expected_seconds(policy, Rates(), action)
    low, high = RATE_BOUNDS
    measured = min(max((outcome.at - issued) / prior, low), high) if prior > 0 else 1.0
    match action.kind:
        case ActionKind.UNLOAD:
            return replace(
                state.rates, unload=state.rates.unload + RATE_WEIGHT * (measured - state.rates.unload)
            )
        case ActionKind.KILL:
            return replace(state.rates, kill=state.rates.kill + RATE_WEIGHT * (measured - state.rates.kill))
        case ActionKind.PURGE_GHOST:
            return state.rates


def planned_delay(policy: Policy, state: State, snapshot: Snapshot) -> float:
    """Seconds to the next full tick: headroom over the fastest plausible fill rate.

    Seconds when relaxed, tens of milliseconds near a threshold or while anything is in flight.
    """
    delay = LONGEST_DELAY_SECONDS
    for reading in snapshot.domains:
        if reading.available_bytes is None or not reading.capacity_bytes:
            continue
        thresholds = policy.thresholds_of(reading.name)
        for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
            headroom = reading.available_bytes - thresholds.bytes_of(level, max(reading.capacity_bytes, 0))
            if headroom > 0:
                delay = min(delay, headroom / FASTEST_FILL_BYTES_PER_SECOND)
        if state.domains.get(reading.name, DomainState()).raw >= Level.HARD:
            delay = min(delay, 2 * SHORTEST_DELAY_SECONDS)
    if state.in_flight or any(runner.loaded_at is None for runner in state.runners):
        delay = min(delay, 0.1)
    return max(delay, SHORTEST_DELAY_SECONDS)
