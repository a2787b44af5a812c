"""The diagnosis of a freeze (design, section 6): one item that Ollama does not serve, and one more why.

First the guard's own failed probe, through its retries, or confirmed thrash; then a process that stands still
though something is asked of it, full pressure while Ollama holds enough to matter, repeated OOM kills, or an
unload that was accepted and never honoured. What a health check says is no item: it only brings a look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ollama_guard.core import thrash
from ollama_guard.core.conditions import silence_due_at
from ollama_guard.core.model import (
    Action,
    ActionKind,
    Activity,
    OutcomeKind,
    ServerReading,
)
from ollama_guard.core.recovery import Still, Symptoms
from ollama_guard.core.runners import GROWTH_STEP_BYTES, Runner
from ollama_guard.core.runtime import RuntimeReading, RuntimeState
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import held_bytes, matters, runtime_of, server_of
from ollama_guard.core.units import bytes_text, seconds_text

# CPU time that shows progress (seconds): half a percent of a core over `stuck_seconds`. An idle runner of a
# real Ollama took not 10 ms in 20 s, one that answers takes whole seconds.
PROGRESS_CPU_SECONDS = 0.15
# A server that only waits (state S) counts as hanging after this many times `stuck_seconds`: it may well wait
# for somebody, where one that is stopped or in the kernel can't.
HANGING_FACTOR = 2.0
# States in which a process can't go on by itself: waiting in the kernel, stopped.
STUCK_STATES = ("D", "T")
# Held by a debugger: it stands still too, so that it is said why nothing is done about it.
TRACED_STATE = "t"
# OOM kills within this time (seconds) that are "repeating": two may be one big neighbour and one of ours.
OOM_WINDOW_SECONDS = 600.0
OOM_REPEATED = 3
# An unload that was not honoured counts for this long (seconds); `sentinel.reflexes` says it in these words.
UNHONOURED_SECONDS = 300.0
NOT_HONOURED = "not honoured"
# How `ApiReading.error` begins for a request that nothing came back to (the kind of `errors.OllamaError`).
SILENCE = "timeout"
# /proc/PID/stat counts in these (per second) on every Linux that Ollama runs on.
TICKS_PER_SECOND = 100.0


def review(scene: Scene, symptoms: Symptoms, *, stalled: bool) -> Symptoms:
    """The symptoms after this tick, with the diagnosis. ``scene.runners`` must be of this snapshot."""
    symptoms = thrash.review(scene, replace(symptoms, frozen="", spared="", server=None), stalled=stalled)
    silent = _silent_seconds(scene)
    if silent is None and symptoms.full_since_at is None:
        calm = symptoms.suspected_at is None
        return symptoms if calm else replace(symptoms, suspected_at=None, still=(), held=False)
    server = server_of(scene)
    held = server is not None and bool(_held(scene, server))
    # What was held can't have moved: how it stands still is looked at anew once it is let go.
    anew = stalled or symptoms.suspected_at is None or (symptoms.held and not held)
    symptoms = replace(
        symptoms,
        suspected_at=scene.now if anew else symptoms.suspected_at,
        still=_still(scene, () if anew else symptoms.still),
        held=held,
    )
    first = _first_item(scene, symptoms, silent)
    second = next(_second_items(scene, symptoms, silent), "") if first else ""
    if not first:
        return replace(symptoms, spared=thrash.of_others(scene, symptoms))
    if not second or server is None:
        return symptoms
    spared = not_frozen(scene, server, symptoms)
    if spared:
        return replace(symptoms, spared=f"it looks frozen, but {spared}")
    return replace(symptoms, frozen=f"{first}, and {second}", server=(server.pid, server.start_ticks))


def _silent_seconds(scene: Scene) -> float | None:
    """For how long requests to the API, retries too, have had no answer; None if they had, or hands are away.

    A process that stands still lets them time out, even with its backlog full. One that refuses, redirects or
    asks for a password is alive, or isn't there at all: maybe the guard alone can't reach it.
    """
    api, state = scene.snapshot.api, scene.state
    last = api.answered_at if api.answered_at is not None else state.started_at
    probed = api.probed_at is not None and (api.answered_at is None or api.probed_at > api.answered_at)
    if not scene.snapshot.hands_alive or last is None or not probed or not api.error.startswith(SILENCE):
        return None
    return scene.now - last if scene.now > silence_due_at(scene.policy, state, scene.snapshot) else None


def _still(scene: Scene, previous: tuple[Still, ...]) -> tuple[Still, ...]:
    """Since when each process of Ollama has stood still; one that runs, or can't be told, has not."""
    known = {(still.pid, still.start_ticks): still for still in previous}
    now, told = scene.now, []
    for server in scene.snapshot.servers:
        old = known.get((server.pid, server.start_ticks))
        waits = server.process_state in (*STUCK_STATES, TRACED_STATE, "S")
        kept = old if old is not None and waits else None
        told.append(kept or Still(server.pid, server.start_ticks, now))
    for runner in scene.runners:
        reading = runner.reading
        cpu, held = reading.cpu_seconds, reading.freeable_bytes
        old = known.get(reading.key)
        moved = (
            old is None
            or cpu is None
            or cpu - old.cpu_seconds >= PROGRESS_CPU_SECONDS
            or abs(held - old.held_bytes) >= GROWTH_STEP_BYTES
        )
        told.append(Still(*reading.key, now, cpu or 0.0, held) if old is None or moved else old)
    return tuple(told)


def _first_item(scene: Scene, symptoms: Symptoms, silent: float | None) -> str:
    """That Ollama does not serve, or "" while that is not sure."""
    if silent is not None:
        error = scene.snapshot.api.error
        return f"Ollama's API has been silent for {seconds_text(silent)}{f' ({error})' if error else ''}"
    return thrash.words(scene, symptoms)


def _second_items(scene: Scene, symptoms: Symptoms, silent: float | None) -> Iterator[str]:
    """Each further item that holds now, as words."""
    yield from _stuck(scene, symptoms, silent)
    full = symptoms.full_since_at
    if full is not None and scene.now - full >= scene.policy.playbook.full_seconds and matters(scene):
        yield (
            f"pressure has been full for {seconds_text(scene.now - full)} while Ollama holds "
            f"{bytes_text(held_bytes(scene))}"
        )
    recent = [at for at in symptoms.oom_at if scene.now - at <= OOM_WINDOW_SECONDS]
    if len(recent) >= OOM_REPEATED and scene.state.durable.constrained is None:
        yield f"the kernel has killed {len(recent)} times for want of memory in the last ten minutes"
    for action in _unhonoured(scene):
        yield f"an unload of {' = '.join(action.names) or 'a model'} was accepted and never honoured"


def _stuck(scene: Scene, symptoms: Symptoms, silent: float | None) -> Iterator[str]:
    limit = scene.policy.playbook.stuck_seconds
    since = {(still.pid, still.start_ticks): scene.now - still.since_at for still in symptoms.still}
    for runner in scene.runners:
        seconds = since.get(runner.key, 0.0)
        state = runner.reading.process_state
        if seconds >= limit and (state in STUCK_STATES or _is_asked(scene, runner)):
            yield f"the runner of {runner.title} has stood still for {seconds_text(seconds)} in state {state}"
    if silent is None:
        return
    # Our own probe is the request that the server lets pend.
    for server in scene.snapshot.servers:
        seconds = since.get((server.pid, server.start_ticks), 0.0)
        stuck = server.process_state in STUCK_STATES
        others = min((since.get(runner.key, 0.0) for runner in scene.runners), default=seconds)
        if (stuck and seconds >= limit) or min(seconds, others) >= HANGING_FACTOR * limit:
            yield (
                f"its server, pid {server.pid}, has stood still for {seconds_text(seconds)} in state "
                f"{server.process_state}"
            )


def _is_asked(scene: Scene, runner: Runner) -> bool:
    """Whether a request certainly waits for this runner: its load, or an answer past its expiry."""
    if runner.activity is Activity.LOADING:
        return True
    listed = [m for m in scene.snapshot.api.loaded if m.blob == runner.reading.blob]
    return any(m.expires_in_seconds is not None and m.expires_in_seconds < 0 for m in listed)


def _unhonoured(scene: Scene) -> Iterator[Action]:
    alive = {runner.key for runner in scene.runners if runner.activity is not Activity.BUSY}
    for action, outcome in scene.state.finished:
        if (
            action.kind is ActionKind.UNLOAD
            and outcome.kind is OutcomeKind.FAILED
            and NOT_HONOURED in outcome.detail
            and action.key in alive
            and scene.now - outcome.at <= UNHONOURED_SECONDS
        ):
            yield action


def not_frozen(scene: Scene, server: ServerReading, symptoms: Symptoms) -> str:
    """Why what looks like a freeze is none, or ""."""
    held = _held(scene, server)
    if held:
        return held
    runtime = runtime_of(scene, server)
    title = runtime.name if runtime is not None else "its server"
    age = _age_seconds(scene, server, runtime)
    if age < scene.policy.playbook.young_seconds:
        return f"{title} is only {seconds_text(age)} old"
    moving = _moving(scene, symptoms)
    if moving:
        return moving
    if symptoms.full_since_at is not None and not matters(scene):
        return (
            f"the pressure is not Ollama's, which holds {bytes_text(held_bytes(scene))}: "
            "`ollama-guard status` names who holds the most"
        )
    return ""


def _held(scene: Scene, server: ServerReading) -> str:
    """Who or what holds Ollama still, or ""."""
    runtime = runtime_of(scene, server)
    state = runtime.state if runtime is not None else RuntimeState.UNKNOWN
    title = runtime.name if runtime is not None else "its server"
    if state is RuntimeState.PAUSED or server.frozen:
        return f"{title} is paused"
    traced = server.traced or server.process_state == TRACED_STATE
    if traced or any(runner.reading.process_state == TRACED_STATE for runner in scene.runners):
        return "a debugger is attached"
    if state is RuntimeState.CHANGING:
        return f"{title} is being started, stopped or upgraded"
    return ""


def _moving(scene: Scene, symptoms: Symptoms) -> str:
    """A load or an answer that goes on, though slowly; in full pressure only a load counts as going on."""
    since = {(still.pid, still.start_ticks): scene.now - still.since_at for still in symptoms.still}
    for runner in scene.runners:
        if since.get(runner.key, 0.0) >= scene.policy.playbook.stuck_seconds:
            continue
        if runner.activity is Activity.LOADING:
            return f"the load of {runner.title} goes on, at {bytes_text(runner.freeable_bytes)} by now"
        if runner.activity is Activity.BUSY and symptoms.full_since_at is None:
            return f"{runner.title} is at work"
    return ""


def _age_seconds(scene: Scene, server: ServerReading, runtime: RuntimeReading | None) -> float:
    """Since the server's start, by the later of what the kernel and what its runtime says."""
    started = server.start_ticks / TICKS_PER_SECOND
    if runtime is not None and runtime.started_at is not None:
        started = max(started, runtime.started_at)
    return scene.now - started
