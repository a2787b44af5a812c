"""The freeze recovery as a pure state machine: in the position and the last outcome, out the next step.

    constrain -> stop (-> kill_server -> stop) -> quarantine (each target) -> start -> verify -> over

Where manifests can't be renamed, hiding needs Ollama's API, so it comes after the start; until then those
models are condemned, so that clients who ask for them without pause get no memory for it.

A step is tried a few times and then left, with its trouble told; only a start is tried until Ollama runs,
since Ollama is never left stopped. The position is in `Durable`, which is stored before the action is posted:
a guard that dies at any point finds the step written down, repeats it (each is idempotent), and counts that
as one more try. What releases the constraints again after quiet is `reopen`; what starts an Ollama that is
down though its run is over, `revive`.

``models_dont_load`` has no step on the server: the soft cap is one, and larger models than the smallest are
neither kept nor loaded (`narrow`), so that memory is left to that one until it has been well for a
transition. It stops, hides and condemns nothing, and begins by hand only, since `loads` makes room for each
load by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_guard.core import condemned, revive, runs, steps, targets
from ollama_guard.core.model import (
    Action,
    Condition,
    Outcome,
    OutcomeKind,
)
from ollama_guard.core.policy import Policy
from ollama_guard.core.recovery import Constrained, Ending, Playbook, Position, Run, Step
from ollama_guard.core.runtime import AWAY
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import is_away, named, why_never
from ollama_guard.core.state import Durable, Strike
from ollama_guard.core.units import seconds_text

# Tries of each step, over all lives of the guard; a start has no end.
TRIES = {Step.CONSTRAIN: 3, Step.STOP: 3, Step.KILL_SERVER: 2, Step.QUARANTINE: 3, Step.VERIFY: 3}
# The pause before the next try (seconds); it doubles up to the longest.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
# A guard that has just started waits so long for hands to tell of the store (seconds): their first look comes
# within one or two.
UNTOLD_SECONDS = 15.0
# models_dont_load ends after this long whatever memory does (seconds).
LONGEST_CAPPED_SECONDS = 3600.0
# How the outcome of a stop begins that was tried in earnest and got no end: hands' words, the sentinel's, and
# `outcomes`'. Any other failure says that it was not tried (denied, refused, gone): no reason to kill.
HANGS = ("hanging:", "stuck:", "no answer", "accepted but not honoured", "its outcome never came")
# And of one that may not have been heard of, or whose end nobody lived to tell: it is asked for again. Docker
# may have gone away in the middle of it.
UNHEARD = ("hands died", "hands could not be told", f"{AWAY}:")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the playbook calls for now: an action (its id comes later), or only a changed ``durable``."""

    durable: Durable
    action: Action | None = None


def begin(scene: Scene, name: Playbook, reason: str, *, by_hand: bool = False) -> Durable:
    """The durable state with a run of this playbook at its first step. Whether it may, `recover` says."""
    durable, reason = (
        runs.over(scene.state.durable, scene.now, Ending.PARTLY, "another run was due"),
        reason[: runs.TEXT_KEPT],
    )
    durable = replace(durable, runs=runs.with_new(durable, Run(name, scene.now, by_hand)))
    if name is Playbook.MODELS_DONT_LOAD:
        position = Position(name, Step.SOFT_CAP, scene.now, reason, by_hand=by_hand)
        return replace(durable, playbook=position)
    runtime = targets.runtime_here(scene)
    title = runtime.name if runtime is not None else ""
    position = Position(
        name, Step.CONSTRAIN, scene.now, reason, title, targets=targets.unfit(scene), by_hand=by_hand
    )
    before = durable.constrained
    constrained = Constrained(
        title, scene.now, before.container_bytes if before else targets.container_bytes(scene)
    )
    return replace(durable, playbook=position, constrained=constrained, released=False, hard_cap=0)


def proceed(scene: Scene, *, word: bool, blind: bool) -> Turn:
    """The next step of the run that goes on.

    ``word`` is False while the owner's word (see `recover`) forbids to act: then a run that has not stopped
    anything is over, and one that has only starts Ollama. While ``blind`` nothing is stopped or killed.
    """
    durable = scene.state.durable
    position = durable.playbook
    if position is None:
        return Turn(durable)
    if position.name is Playbook.MODELS_DONT_LOAD:
        return Turn(_capped(scene, durable, position))
    if any(action.id == position.action_id for action in scene.state.in_flight):
        return Turn(durable)
    position = _settled(scene, replace(position, action_id=None))
    if not word:
        text = "cut short: the guard may not act now"
        if not position.stopping:
            return Turn(runs.over(durable, scene.now, Ending.FAILED, text, unharmed=True))
        position = _to_start(position, text)
    if blind and position.step in (Step.CONSTRAIN, Step.STOP, Step.KILL_SERVER):
        if not position.stopping:
            return Turn(replace(durable, playbook=position))
        position = _to_start(position, "cut short: it can't be told whose processes these are")
    if _has_recovered(scene, position):
        unharmed = _is_unharmed(position)
        text = "Ollama answers again by itself" + (", nothing was stopped" if unharmed else "")
        return Turn(runs.over(durable, scene.now, Ending.DONE, text, unharmed=unharmed))
    ended = _cannot_go_on(scene, position)
    if ended:
        return Turn(runs.over(durable, scene.now, Ending.FAILED, ended, unharmed=_is_unharmed(position)))
    durable = replace(durable, playbook=position)
    waits = scene.now < position.not_before_at or _waits(scene, position)
    return Turn(durable, None if waits else steps.action_of(scene, position))


def _waits(scene: Scene, position: Position) -> bool:
    """Whether who would carry the step out is not there: hands, or who runs Ollama."""
    asks = position.step in (Step.STOP, Step.START)
    return _waits_for_hands(scene, position) or (asks and is_away(named(scene, position.runtime)))


def _waits_for_hands(scene: Scene, position: Position) -> bool:
    """Whether hands are not there, or have just begun and not told yet of what the step is about."""
    snapshot = scene.snapshot
    if position.step is Step.KILL_SERVER:
        return False
    untold = (
        (position.step is Step.QUARANTINE and not snapshot.store.read_at)
        or (position.step is Step.VERIFY and not snapshot.catalogue)
        or (position.step in (Step.CONSTRAIN, Step.STOP) and named(scene, position.runtime) is None)
    )
    young = scene.now - (scene.state.started_at or scene.now) < UNTOLD_SECONDS
    return not snapshot.hands_alive or (untold and young)


def _has_recovered(scene: Scene, position: Position) -> bool:
    """Whether what was frozen goes on by itself before it was stopped, or since a stop that failed.

    By hand it is stopped all the same.
    """
    answered = scene.snapshot.api.answered_at
    symptoms = scene.state.symptoms
    frozen = symptoms.frozen or symptoms.full_since_at is not None
    untried = position.stopping and not position.attempts
    if position.by_hand or frozen or untried or position.step not in (Step.CONSTRAIN, Step.STOP):
        return False
    return answered is not None and answered > max(position.started_at, position.not_before_at)


def _cannot_go_on(scene: Scene, position: Position) -> str:
    """Why the run ends here, with Ollama running or gone for good; "" while it goes on."""
    if position.step is Step.START and revive.is_gone(scene, position.runtime, position.started_at):
        return f"{position.runtime} is gone, so it can't be started"
    if _is_unharmed(position) and not _waits_for_hands(scene, position):
        never = why_never(scene, named(scene, position.runtime))
        if never:
            return f"nothing was stopped: {never}"
    if position.step is Step.VERIFY and position.attempts >= TRIES[Step.VERIFY]:
        return _with(position, "it was started but could not be verified").trouble
    return ""


def _is_unharmed(position: Position) -> bool:
    """Whether nothing was stopped, nor tried to be."""
    return position.step in (Step.CONSTRAIN, Step.STOP) and not position.stopping


def posted(durable: Durable, action: Action) -> Durable:
    """The durable state when this action is about to be posted: what is stored before it is.

    Only a step of the run moves its position; what else is done meanwhile (hide, release, restore) does not.
    """
    position = durable.playbook
    if position is None or action.kind.value != position.step.value or position.name is not Playbook.FREEZE:
        return durable
    stopping = position.stopping or position.step in (Step.STOP, Step.KILL_SERVER)
    position = replace(
        position, action_id=action.id, attempts=min(position.attempts + 1, 1000), stopping=stopping
    )
    return replace(durable, playbook=position)


def after(durable: Durable, action: Action, outcome: Outcome, policy: Policy) -> Durable:
    """The durable state after the step's action ended."""
    position = durable.playbook
    if position is None or position.action_id != action.id:
        return durable
    position = replace(position, action_id=None)
    if outcome.kind is not OutcomeKind.DONE:
        # `_waits` knows until when.
        away = position.step is Step.START and outcome.detail.startswith(f"{AWAY}:")
        again = replace(
            position,
            not_before_at=outcome.at + pause_seconds(1 if away else position.attempts),
            failed=outcome.detail[:200],
        )
        told = outcome.kind is OutcomeKind.FAILED and not outcome.detail.startswith(UNHEARD)
        if position.step is Step.STOP and told:
            return _not_stopped(replace(durable, playbook=again), again, outcome)
        return replace(durable, playbook=again)
    match position.step:
        case Step.CONSTRAIN:
            position = _at(position, Step.STOP)
        case Step.STOP:
            durable = _condemn_all(durable, position, outcome.at, policy)
            position = _at(position, Step.QUARANTINE)
        case Step.KILL_SERVER:
            position = replace(_at(position, Step.STOP), killed=True)
        case Step.QUARANTINE:
            position = replace(_at(position, Step.QUARANTINE), targets=position.targets[1:])
        case Step.START if position.giving_up:
            text = f"given up, Ollama was started again: {position.trouble}"
            return runs.over(replace(durable, playbook=position), outcome.at, Ending.FAILED, text)
        case Step.START:
            then = Step.QUARANTINE if position.targets else Step.VERIFY
            position = replace(_at(position, then), stopping=False)
        case _:
            if action.model is None and position.failed:
                position = _with(position, "no model answered")
            return _verified(replace(durable, playbook=position), position, outcome)
    return replace(durable, playbook=position)


def _not_stopped(durable: Durable, position: Position, outcome: Outcome) -> Durable:
    """After a stop that failed: one that hangs is followed by a kill, one that was refused never."""
    if outcome.detail.startswith(HANGS):
        killed = position if position.killed else _at(position, Step.KILL_SERVER)
        return replace(durable, playbook=killed)
    text = f"{position.runtime} could not be stopped"
    if position.killed or position.attempts > 1:  # an earlier try may have stopped it
        return replace(durable, playbook=_to_start(position, text))
    told = _with(position, f"nothing was stopped: {text}").trouble
    return runs.over(replace(durable, stopped=None), outcome.at, Ending.FAILED, told, unharmed=True)


def _condemn_all(durable: Durable, position: Position, now: float, policy: Policy) -> Durable:
    """What is to be hidden gets no memory until it is, whoever asks for it first."""
    term = policy.condemned_seconds
    for target in position.targets:
        verdict = Strike(target.blob, now, target.needs_bytes)
        durable = condemned.convicted(durable, verdict, target.names, term)
    return durable


def _verified(durable: Durable, position: Position, outcome: Outcome) -> Durable:
    took = seconds_text(max(0.0, outcome.at - position.started_at))
    ending = Ending.PARTLY if position.trouble else Ending.DONE
    but = f", but {position.trouble}" if position.trouble else ""
    return runs.over(durable, outcome.at, ending, f"Ollama serves again after {took}{but}")


def _settled(scene: Scene, position: Position) -> Position:
    """The position after every step that needs no action, or has had all its tries, is behind it."""
    for _ in range(len(Step) + len(position.targets)):
        then = _passed(scene, position)
        if then == position:
            break
        position = then
    return position


def _passed(scene: Scene, position: Position) -> Position:
    """One step on where this one is needless or used up; else the position as it is."""
    step, spent = position.step, position.attempts >= TRIES.get(position.step, 2**31)
    match step:
        case Step.CONSTRAIN if spent:
            return _at(_with(position, "the constraints could not be written"), Step.STOP)
        case Step.STOP if spent and not position.killed:
            return _at(position, Step.KILL_SERVER)
        case Step.STOP if spent:
            return _to_start(position, f"{position.runtime} could not be stopped")
        case Step.KILL_SERVER if spent or steps.server_to_kill(scene, position) is None:
            return replace(_at(position, Step.STOP), killed=True)
        case Step.QUARANTINE if not position.targets:
            return _at(position, Step.START if position.stopping else Step.VERIFY)
        case Step.QUARANTINE if position.stopping and _needs_api(scene):
            return _at(position, Step.START)
        case Step.QUARANTINE if spent or targets.is_hidden(scene, position.targets[0]):
            names = " = ".join(position.targets[0].names) or position.targets[0].blob[:19]
            told = _with(position, f"{names} could not be hidden") if spent else position
            return replace(_at(told, Step.QUARANTINE), targets=position.targets[1:])
        case _:
            return position


def _needs_api(scene: Scene) -> bool:
    """Whether models can be hidden only while Ollama runs; not before hands had time to tell."""
    store, begun = scene.snapshot.store, scene.state.started_at or scene.now
    told = store.read_at > 0 or scene.now - begun >= UNTOLD_SECONDS
    return told and not store.writable


def _to_start(position: Position, trouble: str) -> Position:
    """Give up: Ollama is started, and nothing else is done."""
    if position.giving_up:
        return position
    position = replace(_with(position, trouble), giving_up=True)
    return position if position.step is Step.START else _at(position, Step.START)


def _at(position: Position, step: Step) -> Position:
    return replace(position, step=step, attempts=0, not_before_at=0.0, failed="")


def _with(position: Position, trouble: str) -> Position:
    told = f"{trouble} ({position.failed})" if position.failed else trouble
    return replace(
        position, trouble=(f"{position.trouble}; {told}" if position.trouble else told)[: runs.TEXT_KEPT]
    )


def pause_seconds(attempts: int) -> float:
    """Before the next try, after so many."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** max(0, min(attempts, 20) - 1), LONGEST_PAUSE_SECONDS))


def _capped(scene: Scene, durable: Durable, position: Position) -> Durable:
    """models_dont_load goes on until memory has been well for a transition, or for an hour."""
    lasted = scene.now - position.started_at
    short = any(held.condition is Condition.MEMORY_PRESSURE for held in scene.state.conditions)
    if lasted > LONGEST_CAPPED_SECONDS:
        return runs.over(durable, scene.now, Ending.FAILED, "memory has not come back within an hour")
    if short or lasted < scene.policy.transition_seconds:
        return durable
    return runs.over(durable, scene.now, Ending.DONE, f"memory is back after {seconds_text(lasted)}")
