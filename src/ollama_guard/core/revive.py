"""Ollama is never left stopped by the guard's doing, also after the run that stopped it is over.

A run can end while the server still dies: its SIGKILL lands when it comes out of the kernel, long after a
start found it running; Docker and systemd don't bring back what they were asked to stop. So what was stopped
stays written down until the API has answered, and until then it is started again, in every mode, as often as
it is found down, ever more seldom. What was stopped before this boot is known to hands alone.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.core.recovery import Playbook, Stopped
from ollama_guard.core.runtime import RuntimeState
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import is_away, named
from ollama_guard.core.state import Durable

# What one start may take (seconds), as in a run.
DEADLINE_SECONDS = 60.0
# The pause after a start (seconds), doubling up to the longest: a server is seen within a second or two.
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0
# A runtime that hands have known nothing of for so long is taken for gone (seconds): as long as they look for
# one that went away, since compose takes a container away to make it anew.
UNKNOWN_SECONDS = 600.0
_STOPS = (ActionKind.STOP, ActionKind.KILL_SERVER)
_UNDER_WAY = (*_STOPS, ActionKind.START, ActionKind.RESTART)
# How the outcome of a restart begins that has stopped nothing.
_UNTOUCHED = ("refused:", "denied:")


def in_run(durable: Durable) -> bool:
    """Whether a run goes on that starts Ollama itself."""
    return durable.playbook is not None and durable.playbook.name is Playbook.FREEZE


def reviewed(scene: Scene) -> Durable:
    """The durable state without what was stopped, once the API has answered since then, or it is gone."""
    durable, answered_at = scene.state.durable, scene.snapshot.api.answered_at
    stopped = durable.stopped
    if stopped is None:
        down = next((runtime for runtime in scene.snapshot.runtimes if runtime.stopped_by_us), None)
        if down is None or in_run(durable):
            return durable
        return replace(durable, stopped=Stopped(down.name, scene.now))
    unknown = scene.snapshot.hands_alive and named(scene, stopped.runtime) is None
    since_at = stopped.unknown_since_at if stopped.unknown_since_at is not None else scene.now
    stopped = replace(stopped, unknown_since_at=since_at if unknown else None)
    answered = answered_at is not None and answered_at > stopped.since_at
    if not in_run(durable) and (answered or is_gone(scene, stopped.runtime, stopped.since_at)):
        return replace(durable, stopped=None)
    return replace(durable, stopped=stopped) if stopped != durable.stopped else durable


def is_gone(scene: Scene, name: str, since_at: float) -> bool:
    """Whether a runtime is no more: hands said so since then, or have known of none of its name for long."""
    runtime, stopped = named(scene, name), scene.state.durable.stopped
    if runtime is not None:
        return runtime.state is RuntimeState.GONE and runtime.read_at > since_at
    if stopped is None or stopped.runtime != name or stopped.unknown_since_at is None:
        return False
    # An earlier life of the guard may have looked only once.
    begun = scene.now if scene.state.started_at is None else scene.state.started_at
    return scene.now - max(stopped.unknown_since_at, begun) >= UNKNOWN_SECONDS


def to_start(scene: Scene) -> Action | None:
    """The action that starts what the guard stopped and finds down, or None."""
    durable = scene.state.durable
    stopped = durable.stopped
    if stopped is None or in_run(durable) or not scene.snapshot.hands_alive:
        return None
    under_way = any(a.kind in _UNDER_WAY for a in scene.state.in_flight)
    if under_way or scene.now < stopped.not_before_at or not _is_down(scene, stopped):
        return None
    return Action(
        id=0,
        kind=ActionKind.START,
        rung=Rung.PLAYBOOK,
        deadline_at=scene.now + DEADLINE_SECONDS,
        runtime=stopped.runtime,
        reason=f"start {stopped.runtime}: the guard stopped it, and it is down though the run is over",
    )


def _is_down(scene: Scene, stopped: Stopped) -> bool:
    """Whether the runtime says so, or no server of its is there; not while somebody else is at work on it."""
    runtime = named(scene, stopped.runtime)
    if runtime is None or is_away(runtime) or runtime.state in (RuntimeState.CHANGING, RuntimeState.PAUSED):
        return False
    if runtime.state is RuntimeState.STOPPED:
        return True
    pids = {server.pid for server in scene.snapshot.servers}
    return not pids or (runtime.server_pid is not None and runtime.server_pid not in pids)


def posted(durable: Durable, action: Action, now: float) -> Durable:
    """The durable state when this action is about to be posted."""
    if action.kind in _STOPS:
        return replace(durable, stopped=Stopped(action.runtime, now))
    if action.kind is ActionKind.RESTART:  # it may still answer before it is stopped: that is no end
        return replace(durable, stopped=Stopped(action.runtime, action.deadline_at))
    stopped = durable.stopped
    if action.kind is not ActionKind.START or stopped is None or in_run(durable):
        return durable
    attempts = min(stopped.attempts + 1, 1000)
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (min(attempts, 20) - 1), LONGEST_PAUSE_SECONDS)
    return replace(durable, stopped=replace(stopped, attempts=attempts, not_before_at=now + pause))


def after(durable: Durable, action: Action, outcome: Outcome) -> Durable:
    """The durable state after an action ended: an answer counts only from a start on."""
    stopped = durable.stopped
    if stopped is None or action.runtime != stopped.runtime:
        return durable
    if outcome.kind is not OutcomeKind.DONE:
        untouched = outcome.kind is OutcomeKind.SKIPPED or outcome.detail.startswith(_UNTOUCHED)
        none = action.kind is ActionKind.RESTART and untouched
        return replace(durable, stopped=None) if none else durable
    match action.kind:
        case ActionKind.START | ActionKind.RESTART:
            return replace(durable, stopped=replace(stopped, since_at=outcome.at))
        case ActionKind.VERIFY:
            return replace(durable, stopped=None)
        case _:
            return durable
