"""The server and how it is run: which one the API is, what may be done to it here, and what it may hold.

Everything that stops, constrains, restarts or hides asks here first whether it may.
"""

from __future__ import annotations

from ollama_guard.core.model import CONTAINER, HOST, Level, ServerReading
from ollama_guard.core.policy import Authority
from ollama_guard.core.runtime import AWAY, RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.core.scene import Scene
from ollama_guard.core.units import bytes_text

# Ollama matters when it holds this share of a domain: below it, its end would not end anybody's thrash.
MATTERS_SHARE = 0.10


def server_of(scene: Scene) -> ServerReading | None:
    """The server that the API is, where that is certain: the only one."""
    return scene.snapshot.servers[0] if len(scene.snapshot.servers) == 1 else None


def runtime_of(scene: Scene, server: ServerReading | None) -> RuntimeReading | None:
    """How a server is run: the runtime whose main process it is, else the only one, if it has none now."""
    runtimes = scene.snapshot.runtimes
    own = next((r for r in runtimes if server is not None and r.server_pid == server.pid), None)
    if own is not None:
        return own
    lone = runtimes[0] if len(runtimes) == 1 and len(scene.snapshot.servers) <= 1 else None
    return lone if lone is not None and (server is None or lone.server_pid is None) else None


def named(scene: Scene, name: str) -> RuntimeReading | None:
    """The runtime of a name, as hands last told of it."""
    return next((runtime for runtime in scene.snapshot.runtimes if runtime.name == name), None)


def has_word(scene: Scene, runtime: RuntimeReading | None) -> bool:
    """Whether the owner lets the guard act on this server: a line of the file, or the container's label."""
    return scene.policy.ollama.authority is Authority.SERVER or (runtime is not None and runtime.authority)


def lacks_word(runtime: RuntimeReading) -> str:
    """What the owner would have to write."""
    label = ", or the label ollama-guard.authority=server" if runtime.kind.value == "docker" else ""
    return f'that needs your word: authority = "server" in [ollama]{label}'


def is_away(runtime: RuntimeReading | None) -> bool:
    """Whether who runs it is not there now, as Docker while it is restarted: nothing can be asked of it."""
    return runtime is not None and runtime.error == AWAY


def why_never(scene: Scene, runtime: RuntimeReading | None) -> str:
    """Why this server may not be stopped now whoever asks for it, or ""."""
    if runtime is None:
        return "how Ollama is run here is not known" + (
            "" if len(scene.snapshot.servers) <= 1 else " (there are several servers)"
        )
    if is_away(runtime):
        return f"nothing can be asked of {runtime.name} now: {runtime.reason}"
    if runtime.auto_remove:
        return f"{runtime.name} is removed with its volumes when it stops (--rm): it is never stopped"
    if runtime.shared_by:
        others, name = ", ".join(runtime.shared_by), runtime.name
        with_it = (
            f"{others} would stop with {name}"
            if runtime.kind is RuntimeKind.SYSTEMD
            else f"{others} live in the namespaces of {name}"
        )
        return f"{with_it}: it is never stopped"
    missing = [verb for verb in ("stop", "start") if verb not in runtime.verbs]
    if missing:
        why = runtime.cannot or runtime.reason or "hands may not"
        return f"{runtime.name} can't be asked to {' and '.join(missing)}: {why}"
    if runtime.state is RuntimeState.CHANGING:
        return f"{runtime.name} is being started, stopped or upgraded"
    if scene.snapshot.store.busy:
        return f"{scene.snapshot.store.busy}: not restarted meanwhile"
    return ""


def held_bytes(scene: Scene) -> int:
    """What all runners of Ollama have in memory."""
    return sum(runner.reading.resident_bytes for runner in scene.runners)


def matters(scene: Scene) -> bool:
    """Whether Ollama holds enough of any domain for its end to matter."""
    for reading in scene.snapshot.domains:
        held = sum(runner.reading.resident_bytes for runner in scene.within(reading.name))
        if reading.capacity_bytes and held >= MATTERS_SHARE * reading.capacity_bytes:
            return True
    return False


def room_alone_bytes(scene: Scene) -> int | None:
    """What one model could take with nothing else loaded and no constraint of ours; None = not known.

    Of host and container the smaller, each above its hard threshold. A limit that the guard set does not
    count: what was there before it does.
    """
    rooms = []
    constrained = scene.state.durable.constrained
    for reading in scene.snapshot.domains:
        capacity = reading.capacity_bytes
        if reading.name == CONTAINER and constrained is not None:
            capacity = constrained.container_bytes
        if reading.name in (HOST, CONTAINER) and capacity:
            rooms.append(capacity - scene.policy.thresholds_of(reading.name).bytes_of(Level.HARD, capacity))
    return min(rooms, default=None)


def fits_alone(scene: Scene, needs_bytes: int) -> bool:
    """Whether so much would fit with nothing else loaded and no constraint of ours."""
    room = room_alone_bytes(scene)
    return room is not None and needs_bytes <= room


def too_large(scene: Scene, needs_bytes: int) -> str:
    """Why so much can never fit, or "" if it can, or nothing is known."""
    room = room_alone_bytes(scene)
    if room is None or needs_bytes <= room:
        return ""
    return f"it needs {bytes_text(needs_bytes)} and {bytes_text(room)} is all that a model can have here"
