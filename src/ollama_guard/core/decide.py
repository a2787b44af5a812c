"""`decide` and `absorb`: the guard's whole judgement, from values to values.

Precedence: the owner's word (paused, observe, ``protect = "always"``) over blind over critical.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import (
    cap,
    conditions,
    ghosts,
    ladder,
    narrate,
    narrow,
    playbook,
    recover,
    reopen,
    requests,
    revive,
    sane,
    sight,
)
from ollama_guard.core.events import one_line
from ollama_guard.core.ledger import key_of
from ollama_guard.core.model import (
    Action,
    ActionKind,
    Activity,
    Decision,
    Level,
    Mode,
    Rung,
    Snapshot,
)
from ollama_guard.core.outcomes import absorb
from ollama_guard.core.pace import delay_seconds, planned_delay
from ollama_guard.core.policy import Policy
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, measured_unload_seconds, mode_of
from ollama_guard.core.state import Durable, State

__all__ = ["absorb", "decide", "mode_of", "planned_delay"]

# A process that is there this long after SIGKILL hangs in the kernel (seconds).
KILL_DEADLINE_SECONDS = 10.0
DISRUPTIVE = (Rung.ABORT_LOAD, Rung.DRAIN_BUSY, Rung.KILL_RUNNER, Rung.PLAYBOOK)


def decide(policy: Policy, state: State, snapshot: Snapshot) -> tuple[State, Decision]:
    """The next state and what to do now. Deterministic; never raises on any snapshot."""
    snapshot = sane.snapshot_of(snapshot, state.last_tick_at)
    scene = sight.scene_of(policy, state, snapshot)
    durable, replies = requests.answer(scene)
    scene = scene.remembering(durable)
    mode = mode_of(policy, durable, snapshot.now)
    by_hand = requests.by_hand(scene)
    durable, draft = _draft(scene, mode)
    scene = scene.remembering(durable)
    draft = by_hand.draft or draft
    acts = bool(draft.targets or draft.ghost or draft.prepared)
    would = (
        acts and not by_hand.draft and (mode is not Mode.ENFORCE or bool(draft.announce)) and not draft.must
    )
    actions = _actions(scene, draft, by_hand.request_id)
    decision = Decision(
        at=snapshot.now,
        wall=snapshot.wall,
        level=scene.state.level,
        rung=draft.rung,
        reason=one_line(f"{'would have: ' if would else ''}{draft.reason}"),
        actions=actions,
        would=would,
        disruptive=draft.rung in DISRUPTIVE or draft.kind is ActionKind.KILL,
        domain=draft.domain,
        replies=(*replies, *by_hand.replies),
        gave_up=draft.gave_up,
    )
    return _commit(scene, decision, draft.announce), decision


def _draft(scene: Scene, mode: Mode) -> tuple[Durable, ladder.Draft]:
    """What the present calls for, and where the playbook stands then. Blind means hold, and say so.

    A kill of the ladder comes first (it is a matter of milliseconds), then a step of the playbook.
    """
    reasons = conditions.blind_reasons(scene.snapshot)
    harm = ladder.choose(scene)
    plan = recover.plan(scene, mode, blind=bool(reasons), busy=bool(harm.targets))
    planned = plan.draft
    if reasons:
        held = ladder.Draft(Rung.HOLD, f"blind, so hold: {'; '.join(reasons)}")
        return plan.durable, planned if planned is not None and planned.must else held
    if planned is not None and not plan.minor:
        kills = harm.kind is ActionKind.KILL and harm.targets
        if not kills and (planned.prepared or harm.rung is Rung.NONE):
            return plan.durable, planned
    if harm.rung is not Rung.NONE and not _is_standing(scene, harm):
        return plan.durable, harm
    return plan.durable, _tidy(scene) or planned or harm


def _is_standing(scene: Scene, draft: ladder.Draft) -> bool:
    """Whether it only says that nothing would help: below soft that may be so for ever, and order is kept."""
    urgent = max((scene.domain(reading.name).urgent for reading in scene.readable()), default=Level.OK)
    return draft.rung is Rung.HOLD and urgent <= Level.SOFT and not scene.state.in_flight


def _tidy(scene: Scene) -> ladder.Draft | None:
    """What keeps order while nothing presses: a ghost is cleared, what is above the cap is unloaded."""
    ghost = ghosts.find(scene)
    if ghost is not None:
        return ladder.Draft(
            Rung.NONE, f"{ghost.name} is listed by Ollama but its runner is gone: clear it", ghost=ghost
        )
    larger = narrow.idle(scene)
    if larger:
        listed = ", ".join(runner.title for runner in larger)
        reason = f"until memory is back only the smallest model stays loaded: unload idle {listed}"
        domain = larger[0].reading.domains[0]
        return ladder.Draft(Rung.CAP, reason, ActionKind.UNLOAD, tuple(larger), domain)
    over = cap.victims(scene)
    if not over:
        return None
    bound = cap.effective(scene.policy, scene.state)
    listed = ", ".join(runner.title for runner in over)
    reason = f"{len(scene.runners)} models are loaded and the soft cap is {bound}: unload idle {listed}"
    return ladder.Draft(Rung.CAP, reason, ActionKind.UNLOAD, over, over[0].reading.domains[0])


def _actions(scene: Scene, draft: ladder.Draft, request_id: int | None) -> tuple[Action, ...]:
    first = scene.state.durable.next_action_id
    if draft.prepared:
        return tuple(
            replace(action, id=first + i, request_id=request_id, reason=one_line(action.reason))
            for i, action in enumerate(draft.prepared)
        )
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
        expected_bytes=runner.memory_bytes,
        needs_bytes=runner.needs_bytes,
        domain=draft.domain,
        reason=one_line(draft.reason),
        request_id=request_id,
        footprint=runner.row.key if runner.row is not None else key_of(runner.reading),
        measured_seconds=measured_unload_seconds(policy, runner),
        cuts_answer=draft.kind is ActionKind.KILL and _is_answering(scene, runner),
        orphan=runner.is_orphan,
    )


def _is_answering(scene: Scene, runner: Runner) -> bool:
    """Whether a runner answers somebody; one in a drain does so until it has ended."""
    draining = any(a.key == runner.key and a.rung is Rung.DRAIN_BUSY for a in scene.state.in_flight)
    return runner.activity is Activity.BUSY or draining


def _commit(scene: Scene, decision: Decision, announced: str) -> State:
    """The state after a decision: what will be done is in flight, the cap follows, ids move on."""
    state, done = scene.state, () if decision.would else decision.actions
    forced = decision.rung in cap.RELIEF and not any(a.request_id is not None or a.orphan for a in done)
    soft_cap, quiet = cap.adjust(scene, decision.rung if forced else Rung.NONE, len(done))
    purged = {a.blob: scene.now for a in done if a.kind is ActionKind.PURGE_GHOST and a.blob}
    issued = {str(a.id): state.issued_at.get(str(a.id), scene.now) for a in (*state.in_flight, *done)}
    state = replace(
        state,
        in_flight=(*state.in_flight, *done),
        issued_at=issued,
        purged_at={
            **{b: at for b, at in state.purged_at.items() if scene.now - at < ghosts.AGAIN_SECONDS},
            **purged,
        },
        soft_cap=soft_cap,
        soft_cap_quiet_since_at=quiet,
        durable=_durable(state.durable, done, scene.now),
        would_at={**state.would_at, announced: scene.now} if announced else state.would_at,
        hold_told_at=_hold_told_at(state, decision),
        last_decision=decision if decision.rung is not Rung.NONE or decision.actions else state.last_decision,
    )
    return replace(state, planned_delay_seconds=delay_seconds(scene.policy, state, scene.snapshot))


def _durable(durable: Durable, done: tuple[Action, ...], now: float) -> Durable:
    """What must survive when these actions are posted: it is stored before they are."""
    for action in done:
        if action.rung is Rung.PLAYBOOK and action.request_id is None:
            durable = revive.posted(playbook.posted(durable, action), action, now)
            durable = reopen.posted(durable, action)
    return replace(durable, next_action_id=durable.next_action_id + len(done))


def _hold_told_at(state: State, decision: Decision) -> float:
    """When `narrate` last told of the present hold."""
    told = narrate.tells_hold(state, decision)
    return decision.at if told else state.hold_told_at
