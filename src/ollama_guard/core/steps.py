"""What each step of the freeze recovery does here: its action, how long it may take, and how it is said."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import narrow, targets
from ollama_guard.core.model import Action, ActionKind, Level, Rung, ServerReading
from ollama_guard.core.policy import PlaybookPolicy, QuarantineAction
from ollama_guard.core.recovery import Position, Step
from ollama_guard.core.runtime import Limits, RuntimeReading
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import named, runtime_of, server_of
from ollama_guard.core.units import bytes_text

# What each step may take (seconds). Docker gives a container 10 s and a unit 90 s by default before it kills;
# a server that doesn't end by itself is killed by the guard instead. A first answer took a real Ollama up to
# half a minute from a cold disk.
DEADLINES = {
    Step.CONSTRAIN: 20.0,
    Step.STOP: 45.0,
    Step.KILL_SERVER: 15.0,
    Step.QUARANTINE: 30.0,
    Step.START: 60.0,
    Step.VERIFY: 120.0,
}


def environment(policy: PlaybookPolicy) -> tuple[tuple[str, str], ...]:
    """The lines under which Ollama is started again."""
    return (
        ("OLLAMA_MAX_LOADED_MODELS", str(policy.max_loaded_models)),
        ("OLLAMA_NUM_PARALLEL", str(policy.num_parallel)),
        ("OLLAMA_KEEP_ALIVE", f"{policy.keep_alive_seconds:.0f}s"),
        ("OLLAMA_MAX_QUEUE", str(policy.max_queue)),
        ("LLAMA_ARG_CACHE_RAM", str(policy.cache_ram_mib)),
    )


def limits(scene: Scene) -> Limits:
    """The limits under which it is started again: as the file says, or what fits above hard."""
    host = next((d for d in scene.snapshot.domains if d.name == "host" and d.capacity_bytes), None)
    memory = scene.policy.playbook.memory_bytes
    if host is not None:
        memory = min(memory, (host.capacity_bytes or 0) - scene.threshold(host, Level.HARD))
    return Limits(memory_bytes=max(memory, 0), cpus=scene.policy.playbook.cpus)


def action_of(scene: Scene, position: Position) -> Action:
    """The action that carries the present step out; its id is given when it is posted."""
    step = position.step
    bare = Action(
        id=0,
        kind=ActionKind(step.value),
        rung=Rung.PLAYBOOK,
        deadline_at=scene.now + DEADLINES[step],
        runtime=position.runtime,
        reason=sentence(scene, position),
    )
    match step:
        case Step.CONSTRAIN:
            return replace(bare, environment=environment(scene.policy.playbook), limits=limits(scene))
        case Step.START if not position.giving_up:
            # What was below use while it ran can be set now; hands may have been restarted since `constrain`.
            return replace(bare, limits=limits(scene))
        case Step.KILL_SERVER:
            server = server_to_kill(scene, position)
            return bare if server is None else replace(bare, pid=server.pid, start_ticks=server.start_ticks)
        case Step.QUARANTINE:
            target = position.targets[0]
            names = targets.names_of(scene, target.blob, target.names)
            return replace(
                bare,
                blob=target.blob,
                model=names[0] if names else None,
                names=names,
                needs_bytes=target.needs_bytes,
            )
        case Step.VERIFY:
            return replace(bare, model=targets.to_verify(scene, position.attempts))
        case _:
            return bare


def sentence(scene: Scene, position: Position) -> str:
    """What the present step does here; the first one says why, the others follow from it."""
    again = f", try {position.attempts + 1}" if position.attempts else ""
    why = f" ({position.reason})" if position.step is Step.CONSTRAIN else ""
    return f"{position.name.value}: {what(scene, position)}{again}{why}"


def what(scene: Scene, position: Position) -> str:
    """What the present step does here."""
    name = position.runtime
    match position.step:
        case Step.CONSTRAIN:
            runtime = named(scene, name)
            return f"constrain {name}: {_lines_text(scene, runtime)}, {_limits_text(scene, runtime)}"
        case Step.STOP:
            return f"stop {name}, so that nothing starts it again"
        case Step.KILL_SERVER:
            return f"kill the server of {name}, which does not stop"
        case Step.QUARANTINE:
            target = position.targets[0]
            title = " = ".join(target.names) or target.blob[:19]
            return f"{_hide_text(scene, title)}, which needs {bytes_text(target.needs_bytes)} and can't fit"
        case Step.START:
            return f"start {name}"
        case Step.VERIFY:
            model = targets.to_verify(scene, position.attempts)
            return f"verify {name}: " + (f"{model} answers" if model else "its version is answered")
        case Step.SOFT_CAP:
            most = f"keep one model loaded at most{_smallest_text(scene)}"
            return f"{most}, until memory has been well for a while"


def _smallest_text(scene: Scene) -> str:
    kept = narrow.smallest(scene)
    return f", and load none that is larger than {kept.names[0]}" if kept is not None else ""


def _lines_text(scene: Scene, runtime: RuntimeReading | None) -> str:
    """The lines under which it starts again; none where it does not read them."""
    if runtime is not None and not runtime.constrainable:
        return (
            "no lines, since it does not read the environment file (`ollama-guard init` says what it lacks)"
        )
    return " ".join(f"{key}={value}" for key, value in environment(scene.policy.playbook))


def _limits_text(scene: Scene, runtime: RuntimeReading | None) -> str:
    """The limits that it gets; what its owner gave it is never loosened."""
    if runtime is not None and "limit" not in runtime.verbs:
        return "no live limits, which may not be set on it"
    most = limits(scene)
    memory, cpus = most.memory_bytes or 0, f"at most {most.cpus:g} CPUs"
    owners = owners_bytes(runtime)
    if owners is not None and owners <= memory:
        return f"memory stays at {bytes_text(owners)}, {cpus}"
    return f"memory {bytes_text(memory)}, {cpus}"


def owners_bytes(runtime: RuntimeReading | None) -> int | None:
    """What its owner lets it hold; None = no limit of its own, or not known."""
    if runtime is None:
        return None
    if runtime.owners_limit_bytes is not None:
        return runtime.owners_limit_bytes or None
    return runtime.memory_limit_bytes


def hides_offline(scene: Scene) -> bool:
    """Whether models are hidden while Ollama is down; else its API does it, after the start."""
    return scene.snapshot.store.writable


def _hide_text(scene: Scene, title: str) -> str:
    verb = "delete" if scene.policy.quarantine.action is QuarantineAction.DELETE else "hide"
    how = "by renaming its manifests" if hides_offline(scene) else "by Ollama's API"
    return f"{verb} {title} {how}"


def server_to_kill(scene: Scene, position: Position) -> ServerReading | None:
    """The server, where it is certain that it is the one of this run's runtime."""
    server = server_of(scene)
    runtime = runtime_of(scene, server)
    return server if runtime is not None and runtime.name == position.runtime else None
