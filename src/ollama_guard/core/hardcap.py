"""The hard cap: OLLAMA_MAX_LOADED_MODELS as memory allows, written for the next start that comes anyway.

How many of the models that were used lately fit together, the largest first; where all do, no line is
written and Ollama's own bound (three without a GPU) stays. Nothing is restarted for it: until somebody
restarts Ollama, or the playbook does, it is *pending*.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import lines, sane
from ollama_guard.core.model import CONTAINER, HOST, Action, ActionKind, Level, Outcome, OutcomeKind, Rung
from ollama_guard.core.recovery import HardCapState
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable
from ollama_guard.core.targets import runtime_here

# Judged this often, written when it has called for the same for so long, tried again after a failure
# (seconds): it takes effect at the next start only, so nothing is gained by being quick.
JUDGE_SECONDS = 60.0
SETTLE_SECONDS = 600.0
AGAIN_SECONDS = 600.0
DEADLINE_SECONDS = 20.0
# A model was used lately within this time (seconds): a day has its mornings and evenings.
LATELY_SECONDS = 86400.0


def judged(scene: Scene) -> HardCapState:
    """What memory calls for, looked at once a minute."""
    state = scene.state.hard_cap
    policy = scene.policy.cap
    if not policy.hard or (state.judged_at is not None and scene.now - state.judged_at < JUDGE_SECONDS):
        return state
    wanted = wanted_cap(scene)
    state = replace(state, judged_at=scene.now)
    if wanted != state.wanted or state.wanted_since_at is None:
        return replace(state, wanted=wanted, wanted_since_at=scene.now)
    return state


def wanted_cap(scene: Scene) -> int:
    """How many models may be loaded together, 0 = no bound is called for."""
    bound = scene.policy.cap.hard_max or 0
    sizes = sorted(_sizes(scene).values(), reverse=True)
    room = _room_bytes(scene)
    if room is None or not sizes or sum(sizes) <= room:
        return bound
    fitting, held = 0, 0
    for size in sizes:
        held += size
        if held > room:
            break
        fitting += 1
    fitting = max(1, fitting)
    return min(fitting, bound) if bound else fitting


def _sizes(scene: Scene) -> dict[str, int]:
    """What each model that was used lately takes, by its blob: as measured, the largest of its rows."""
    sizes: dict[str, int] = {}
    for blob, rows in scene.snapshot.footprints.by_blob.items():
        for row in rows:
            anon = sane.count(row.anon_bytes)
            if anon is not None and scene.snapshot.wall - row.last_used_wall <= LATELY_SECONDS:
                sizes[blob] = max(sizes.get(blob, 0), anon + (sane.count(row.shmem_bytes) or 0))
    for runner in scene.runners:
        blob = runner.reading.blob or f"pid {runner.reading.pid}"
        sizes[blob] = max(sizes.get(blob, 0), runner.memory_bytes, runner.foreseen_bytes or 0)
    return sizes


def _room_bytes(scene: Scene) -> int | None:
    """What Ollama's models can have together above soft: what is available, and what they hold already."""
    rooms = []
    for reading in scene.readable():
        if reading.name in (HOST, CONTAINER):
            held = sum(runner.memory_bytes for runner in scene.within(reading.name))
            rooms.append(scene.headroom(reading, Level.SOFT) + held)
    return min(rooms, default=None)


def in_force(scene: Scene) -> int | None:
    """The bound that Ollama runs under now; None = its own, or not known."""
    return lines.read_by_server(scene).bound or lines.declared(runtime_here(scene))


def pending(scene: Scene) -> int | None:
    """The bound that waits for a start of Ollama, None if there is none."""
    if not lines.waits(scene):
        return None
    bound = lines.written(scene.state.durable).bound or lines.declared(runtime_here(scene))
    return bound if bound != in_force(scene) else None


def to_write(scene: Scene) -> Action | None:
    """The action that writes a cap that has changed, or None."""
    state, durable = scene.state.hard_cap, scene.state.durable
    if not scene.policy.cap.hard or state.wanted_since_at is None or state.wanted == durable.hard_cap:
        return None
    if (
        scene.now - state.wanted_since_at < SETTLE_SECONDS
        or durable.released
        or durable.constrained is not None
    ):
        return None
    runtime = runtime_here(scene)
    if runtime is None or not runtime.constrainable or _waits(scene):
        return None
    owners = lines.declared(runtime) if not durable.hard_cap else None
    if owners is not None and (not state.wanted or owners <= state.wanted):
        return None  # the owner's own line bounds it as much already
    if state.wanted:
        many = "model fits" if state.wanted == 1 else "of the models used lately fit"
        what = f"write {lines.KEY}={state.wanted}: {state.wanted} {many} together"
    else:
        what = f"take {lines.KEY} back: all models used lately fit together"
    return Action(
        id=0,
        kind=ActionKind.CONSTRAIN,
        rung=Rung.CAP,
        deadline_at=scene.now + DEADLINE_SECONDS,
        runtime=runtime.name,
        environment=((lines.KEY, str(state.wanted)),) if state.wanted else (),
        needs_bytes=0,
        reason=f"{what}; it takes effect when Ollama starts the next time, nothing is restarted for it",
    )


def _waits(scene: Scene) -> bool:
    if any(action.kind is ActionKind.CONSTRAIN for action in scene.state.in_flight):
        return True
    ends = [o for a, o in scene.state.finished if a.kind is ActionKind.CONSTRAIN and a.rung is Rung.CAP]
    return bool(ends) and scene.now - ends[-1].at < AGAIN_SECONDS


def after(durable: Durable, action: Action, outcome: Outcome) -> Durable:
    """The durable state once a cap has been written."""
    if action.kind is not ActionKind.CONSTRAIN or action.rung is not Rung.CAP:
        return durable
    if outcome.kind is not OutcomeKind.DONE:
        return durable
    return replace(durable, hard_cap=lines.bound_of(dict(action.environment)) or 0)
