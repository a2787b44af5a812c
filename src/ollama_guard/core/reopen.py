"""After a run Ollama is opened again, step by step, each after quiet; all is undone when a person asks.

    constrained -> lifted (lines out of the environment file, limits put back) -> restarted

What Ollama was started with stays in force until its next start. So once it has been lifted, and been quiet
again, one restart is made, in a moment in which it costs nobody anything: nothing is loaded, listed, pulled
or created, and has not been for a while. Who starts Ollama before that has saved it. A restart that is cut
off anywhere is mended by `revive`; one that came to nothing is tried again, a few times.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import lines, revive
from ollama_guard.core.model import (
    HOST,
    Action,
    ActionKind,
    Condition,
    Level,
    Outcome,
    OutcomeKind,
    Rung,
)
from ollama_guard.core.quarantined import Hidden
from ollama_guard.core.recovery import Constrained, Written
from ollama_guard.core.runtime import RuntimeState
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import why_never
from ollama_guard.core.state import Durable
from ollama_guard.core.targets import container_bytes, runtime_here
from ollama_guard.core.units import seconds_text

# What each may take (seconds).
RELEASE_SECONDS = 30.0
RESTORE_SECONDS = 120.0
# A release that failed is tried again after this long (seconds).
AGAIN_SECONDS = 60.0
# What one restart may take (seconds), and how long nothing must have been loaded before it: a client that
# asks again after half a minute is no rare one.
RESTART_SECONDS = 60.0
IDLE_SECONDS = 60.0
# Restarts tried after one release; then it stays with a person, and the status says so.
RESTARTS = 3
# Each run of the last day doubles the quiet that is waited for, up to this many times it.
DAY_SECONDS = 86400.0
LONGEST_FACTOR = 32


def adopted(scene: Scene) -> Durable:
    """The durable state with what an earlier boot's guard left in force: it is the guard's to lift."""
    durable, runtime = scene.state.durable, runtime_here(scene)
    if runtime is None or durable.constrained is not None or revive.in_run(durable):
        return durable
    if runtime.read_at <= max(_ends(scene, ActionKind.RELEASE), default=-1.0):
        return durable  # it tells of what has been lifted since then
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
    """Since when nothing has been wrong: no condition, no level, no action; None while something is.

    Under the guard's own constraints not what those bring about themselves: a container that is short under
    its limit, loads that it can't hold. Nor a machine that is short for others' sake, unless below hard.
    """
    state = scene.state
    wrong = _is_troubled(scene) if state.durable.constrained is not None else _is_uneasy(scene)
    if wrong or state.symptoms.frozen or not scene.snapshot.hands_alive:
        return None
    return scene.now if state.calm_since_at is None else state.calm_since_at


def _is_uneasy(scene: Scene) -> bool:
    state = scene.state
    return bool(state.conditions or state.in_flight) or state.level > Level.OK


def _is_troubled(scene: Scene) -> bool:
    state, host = scene.state, scene.state.domains.get(HOST)
    acts = any(action.rung is not Rung.ABORT_LOAD for action in state.in_flight)
    holds = any(held.condition is not Condition.MEMORY_PRESSURE for held in state.conditions)
    return acts or holds or (host is not None and host.level >= Level.HARD)


def idle_since(scene: Scene) -> float | None:
    """Since when Ollama has had nothing to do, by all that is seen of it; None while it has, or who knows."""
    api, store = scene.snapshot.api, scene.snapshot.store
    works = scene.snapshot.runners or api.loaded or store.busy or scene.state.in_flight
    told = scene.snapshot.hands_alive and store.readable and len(scene.snapshot.servers) == 1
    if works or not told:
        return None
    return scene.now if scene.state.idle_since_at is None else scene.state.idle_since_at


def quiet_seconds(scene: Scene) -> float:
    """How long all must have been quiet: longer after each run that did not help for good."""
    runs = sum(1 for run in scene.state.durable.runs if scene.now - run.started_at < DAY_SECONDS)
    return scene.policy.playbook.quiet_seconds * min(2.0 ** max(0, runs - 1), LONGEST_FACTOR)


def to_release(scene: Scene) -> Action | None:
    """The action that lifts the constraints of the last run, once it has been quiet for long enough."""
    constrained, calm = scene.state.durable.constrained, scene.state.calm_since_at
    if constrained is None or calm is None or scene.now - max(calm, constrained.at) < quiet_seconds(scene):
        return None
    ends = _ends(scene, ActionKind.RELEASE)
    if ends and scene.now - ends[-1] < AGAIN_SECONDS:
        return None
    quiet = seconds_text(scene.now - max(calm, constrained.at))
    return release_of(
        scene, constrained.runtime, f"all has been quiet for {quiet}: lift what the playbook set"
    )


def _ends(scene: Scene, kind: ActionKind) -> list[float]:
    """When the last actions of a kind ended, the newest last."""
    return [outcome.at for action, outcome in scene.state.finished if action.kind is kind]


def to_restart(scene: Scene) -> Action | None:
    """The restart after which the lifted constraints are out of force, once it costs nobody anything."""
    durable, calm, idle = scene.state.durable, scene.state.calm_since_at, scene.state.idle_since_at
    runtime, told = runtime_here(scene), scene.snapshot.api.loaded_at
    if runtime is None or calm is None or idle is None or not lines.is_lifted(scene):
        return None
    if durable.released or durable.playbook is not None or durable.stopped is not None:
        return None
    before = (*_ends(scene, ActionKind.RELEASE), *_ends(scene, ActionKind.RESTART))
    quiet = scene.now - max(calm, lines.written(durable).at, *before)
    listed = told is not None and told > idle  # Ollama itself says so: its list was asked for since then
    if durable.restarts >= RESTARTS or quiet < quiet_seconds(scene) or not listed:
        return None
    if scene.now - idle < IDLE_SECONDS or runtime.state is not RuntimeState.RUNNING:
        return None
    if why_never(scene, runtime) or not scene.policy.playbook.enabled:
        return None
    since = seconds_text(scene.now - idle)
    return Action(
        id=0,
        kind=ActionKind.RESTART,
        rung=Rung.PLAYBOOK,
        deadline_at=scene.now + RESTART_SECONDS,
        runtime=runtime.name,
        reason=f"restart {runtime.name}, which runs under what the playbook set and has lifted: it has been "
        f"idle for {since}",
    )


def posted(durable: Durable, action: Action) -> Durable:
    """The durable state when this action is about to be posted."""
    if action.kind is not ActionKind.RESTART:
        return durable
    return replace(durable, restarts=durable.restarts + 1)


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
    return replace(durable, constrained=None, hard_cap=0, released=durable.released or by_hand, restarts=0)
