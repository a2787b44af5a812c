"""The document of ``playbook list``, ``show`` and ``run --dry-run``: what each step would do here now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ollama_guard.core import playbook, reopen, runs, sane, steps
from ollama_guard.core.model import Mode, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.recovery import Playbook, Position, Run, Step
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import has_word, lacks_word, why_never
from ollama_guard.core.state import State
from ollama_guard.core.targets import runtime_here
from ollama_guard.core.units import seconds_text

ABOUT = {
    Playbook.FREEZE: "Ollama is frozen: constrain, stop, hide what can't fit, start, verify, reopen",
    Playbook.MODELS_DONT_LOAD: "models don't load: keep to the smallest until memory is back",
}


def view(policy: Policy, state: State, snapshot: Snapshot) -> dict[str, Any]:
    """Every playbook with its steps as they would be, the run that goes on, and the last ones.

    Args:
        policy: the owner's.
        state: as `decide` returned it for this snapshot.
        snapshot: the tick's readings, with catalogue and footprints.
    """
    snapshot = sane.snapshot_of(snapshot, state.last_tick_at)
    scene = Scene.of(policy, state, snapshot)
    position = state.durable.playbook
    return {
        "playbooks": [_playbook(scene, name) for name in Playbook],
        "running": None if position is None else _running(scene, position),
        "frozen": state.symptoms.frozen or None,
        "spared": state.symptoms.spared or None,
        "runs": [_run(scene, run) for run in state.durable.runs],
    }


def _playbook(scene: Scene, name: Playbook) -> dict[str, Any]:
    by_hand, by_itself = _why_not(scene, name)
    return {
        "name": name.value,
        "about": ABOUT[name],
        "by_hand": not by_hand,
        "why_not_by_hand": by_hand or None,
        "by_itself": not by_itself,
        "why_not_by_itself": by_itself or None,
        "steps": _steps(scene, name),
    }


def _why_not(scene: Scene, name: Playbook) -> tuple[str, str]:
    """Why it could not run now: by hand, and by itself."""
    if scene.state.durable.playbook is not None:
        running = f"{scene.state.durable.playbook.name.value} is running"
        return running, running
    if name is Playbook.MODELS_DONT_LOAD:
        return "", "it begins by hand only"
    runtime = runtime_here(scene)
    never = why_never(scene, runtime)
    if never or runtime is None:
        return never, never
    if not scene.policy.playbook.enabled:
        return "", "enabled = false in [playbook.freeze]"
    if scene.policy.ollama.mode is not Mode.ENFORCE:
        return "", f"the mode is {scene.policy.ollama.mode.value}"
    if not has_word(scene, runtime):
        return "", lacks_word(runtime)
    return "", runs.refusal(scene)


def _steps(scene: Scene, name: Playbook) -> list[dict[str, Any]]:
    fresh = scene.remembering(replace(scene.state.durable, playbook=None))
    position = playbook.begin(fresh, name, "").playbook
    if position is None:
        return []
    if name is Playbook.MODELS_DONT_LOAD:
        return [_step(scene, position, None)]
    if not position.runtime:
        position = replace(position, runtime="Ollama")
    hidden = [replace(position, step=Step.QUARANTINE, targets=(target,)) for target in position.targets]
    offline = steps.hides_offline(scene)
    before = "" if scene.snapshot.store.read_at else "where its manifests lie is not known yet"
    note = before if offline else before or "it gets no memory from the stop on, whoever asks for it"
    hiding = [_step(scene, at, note or None) for at in hidden]
    told = [
        _step(scene, replace(position, step=Step.CONSTRAIN), None),
        _step(scene, replace(position, step=Step.STOP), None),
        _step(scene, replace(position, step=Step.KILL_SERVER), "only if it does not stop"),
        *(hiding if offline else ()),
        _step(scene, replace(position, step=Step.START), None),
        *(() if offline else hiding),
        _step(scene, replace(position, step=Step.VERIFY), None),
    ]
    quiet = seconds_text(reopen.quiet_seconds(scene))
    what = (
        f"lift the constraints once all has been quiet for {quiet}; after as long again, with nothing loaded "
    )
    what += f"for {seconds_text(reopen.IDLE_SECONDS)}, restart {position.runtime}; what is hidden "
    what += "comes back when it fits again" if scene.policy.quarantine.restore else "stays hidden"
    return [*told, {"step": "reopen", "what": what, "deadline_seconds": None, "note": None}]


def _step(scene: Scene, position: Position, note: str | None) -> dict[str, Any]:
    return {
        "step": position.step.value,
        "what": steps.what(scene, position),
        "deadline_seconds": steps.DEADLINES.get(position.step),
        "note": note,
    }


def _running(scene: Scene, position: Position) -> dict[str, Any]:
    return {
        "name": position.name.value,
        "step": position.step.value,
        "what": steps.what(scene, position),
        "attempts": position.attempts,
        "since": _wall(scene, position.started_at),
        "by_hand": position.by_hand,
        "reason": position.reason,
        "trouble": position.trouble or None,
    }


def _run(scene: Scene, run: Run) -> dict[str, Any]:
    return {
        "name": run.name.value,
        "since": _wall(scene, run.started_at),
        "seconds": None if run.ended_at is None else round(run.ended_at - run.started_at, 1),
        "by_hand": run.by_hand,
        "outcome": run.ending.value,
        "text": run.text,
    }


def _wall(scene: Scene, at: float) -> float:
    return round(scene.snapshot.wall - (scene.now - at), 3)
