"""After a run: its constraints are lifted once all is quiet, and everything is undone when a person asks.

The lines are taken out of Ollama's environment file, the limits are put back; what Ollama was started with
stays in force until its next start, since nothing is restarted for that.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import lines, revive
from ollama_guard.core.model import Action, ActionKind, Level, Outcome, OutcomeKind, Rung
from ollama_guard.core.quarantined import Hidden
from ollama_guard.core.recovery import Constrained, Written
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable
from ollama_guard.core.targets import container_bytes, runtime_here
from ollama_guard.core.units import seconds_text

# What each may take (seconds).
RELEASE_SECONDS = 30.0
RESTORE_SECONDS = 120.0
# A release that failed is tried again after this long (seconds).
AGAIN_SECONDS = 60.0
# Each run of the last day doubles the quiet that is waited for, up to this many times it.
DAY_SECONDS = 86400.0
LONGEST_FACTOR = 32


def adopted(scene: Scene) -> Durable:
    """The durable state with what an earlier boot's guard left in force: it is the guard's to lift."""
    durable, runtime = scene.state.durable, runtime_here(scene)
    if runtime is None or durable.constrained is not None or revive.in_run(durable):
        return durable
    cap, constrains = lines.bound_of(runtime.left_lines), bool(runtime.left_lines.keys() - {lines.KEY})
    if constrains or runtime.owners_limit_bytes is not None:
        before = container_bytes(scene) if runtime.owners_limit_bytes is None else runtime.owners_limit_bytes
        durable = replace(durable, constrained=Constrained(runtime.name, scene.now, before or None))
    elif cap is None or durable.hard_cap:
        return durable
    else:
        durable = replace(durable, hard_cap=cap)
    # What runs now began after that, since it began in this boot.
    left = Written(lines.NOTHING.at, cap or 0, constrains)
    return replace(durable, written=(left,) if left != lines.NOTHING else durable.written)


def calm_since(scene: Scene) -> float | None:
    """Since when nothing has been wrong: no condition, no level, no action; None while something is."""
    state = scene.state
    wrong = state.conditions or state.in_flight or scene.state.level > Level.OK or state.symptoms.frozen
    if wrong or not scene.snapshot.hands_alive:
        return None
    return scene.now if state.calm_since_at is None else state.calm_since_at


def quiet_seconds(scene: Scene) -> float:
    """How long all must have been quiet: longer after each run that did not help for good."""
    runs = sum(1 for run in scene.state.durable.runs if scene.now - run.started_at < DAY_SECONDS)
    return scene.policy.playbook.quiet_seconds * min(2.0 ** max(0, runs - 1), LONGEST_FACTOR)


def to_release(scene: Scene) -> Action | None:
    """The action that lifts the constraints of the last run, once it has been quiet for long enough."""
    constrained, calm = scene.state.durable.constrained, scene.state.calm_since_at
    if constrained is None or calm is None or scene.now - max(calm, constrained.at) < quiet_seconds(scene):
        return None
    ends = [outcome for action, outcome in scene.state.finished if action.kind is ActionKind.RELEASE]
    if ends and scene.now - ends[-1].at < AGAIN_SECONDS:
        return None
    quiet = seconds_text(scene.now - max(calm, constrained.at))
    return release_of(
        scene, constrained.runtime, f"all has been quiet for {quiet}: lift what the playbook set"
    )


def release_of(scene: Scene, runtime: str, reason: str) -> Action:
    """The action that empties a runtime's environment file and puts its limits back."""
    return Action(
        id=0,
        kind=ActionKind.RELEASE,
        rung=Rung.PLAYBOOK,
        deadline_at=scene.now + RELEASE_SECONDS,
        runtime=runtime,
        reason=reason,
    )


def everything(scene: Scene) -> tuple[Action, ...]:
    """All that undoes what the guard ever set: each runtime released, every hidden name back."""
    constrained = scene.state.durable.constrained
    known = [runtime.name for runtime in scene.snapshot.runtimes]
    names = known or [constrained.runtime if constrained is not None else ""]
    reason = "asked for by hand: undo all that the guard has set"
    hidden = tuple(
        e.name for e in scene.snapshot.store.entries if e.how is not Hidden.DELETED and not e.returned
    )
    back = Action(
        id=0,
        kind=ActionKind.RESTORE,
        rung=Rung.PLAYBOOK,
        deadline_at=scene.now + RESTORE_SECONDS,
        names=hidden,
        reason=reason,
    )
    return (*(release_of(scene, name, reason) for name in names), *((back,) if hidden else ()))


def after(durable: Durable, action: Action, outcome: Outcome) -> Durable:
    """The durable state once a runtime has been released; by hand, it stays so until the next run."""
    if action.kind is not ActionKind.RELEASE or outcome.kind is not OutcomeKind.DONE:
        return durable
    by_hand = action.request_id is not None
    return replace(durable, constrained=None, hard_cap=0, released=durable.released or by_hand)
