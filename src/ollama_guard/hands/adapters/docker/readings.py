"""What Docker says of a container, as a `RuntimeReading`; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any

from ollama_guard.core.runtime import (
    ENVIRONMENT_KEYS,
    Happening,
    RuntimeKind,
    RuntimeReading,
    RuntimeState,
    Told,
)
from ollama_guard.hands.adapters.docker.limits import AS_GOOD_AS_NONE_BYTES
from ollama_guard.hands.adapters.foreign import count, listed, table, text, words

AUTHORITY_LABEL = "ollama-guard.authority"
# The script that reads the environment file and then becomes Ollama; where it looks for the file inside.
ENTRYPOINT = "/usr/share/ollama-guard/ollama-guard-entrypoint"
INSIDE_FOLDER, FILE_VARIABLE = "/var/lib/ollama-guard/env", "OLLAMA_GUARD_ENV_FILE"
# Labels of those who start another container in the place of one that was stopped.
_ORCHESTRATORS = {
    "com.docker.swarm.service.name": "Swarm's service",
    "io.kubernetes.pod.name": "Kubernetes' pod",
}
_VERBS = ("stop", "start", "limit")


@dataclass(frozen=True, slots=True)
class Clocks:
    """Boottime and epoch seconds of one moment, to tell the one from the other."""

    boottime: float
    wall: float


def main_pid(inspected: Mapping[str, Any]) -> int | None:
    """The container's first process as this machine numbers it, None while it has none."""
    return count(part(inspected, "State").get("Pid")) or None


def id_of(inspected: Mapping[str, Any]) -> str:
    """The container's full id."""
    return text(inspected.get("Id"))


def is_running(inspected: Mapping[str, Any]) -> bool:
    """Whether its first process is there, be it paused or not."""
    return part(inspected, "State").get("Running") is True


def name_of(inspected: Mapping[str, Any]) -> str:
    """The container's name as people say it."""
    return (text(inspected.get("Name")) or id_of(inspected) or "?").lstrip("/")


def has_authority(inspected: Mapping[str, Any]) -> bool:
    """Whether its owner lets the guard stop and start it."""
    return part(part(inspected, "Config"), "Labels").get(AUTHORITY_LABEL) == "server"


def reading_of(
    inspected: Mapping[str, Any], shared_by: Sequence[str], env_folder: str, clocks: Clocks
) -> RuntimeReading:
    """All that matters of a container; ``shared_by`` names those that live in its namespaces."""
    host, config = part(inspected, "HostConfig"), part(inspected, "Config")
    state = part(inspected, "State")
    labels = part(config, "Labels")
    limit = count(host.get("Memory")) or 0
    constrainable = _has_entrypoint(inspected) and _has_mount(inspected, env_folder)
    reading = RuntimeReading(
        kind=RuntimeKind.DOCKER,
        name=name_of(inspected),
        state=_state_of(state),
        read_at=clocks.boottime,
        id=id_of(inspected),
        server_pid=main_pid(inspected),
        started_at=_started_at(state, clocks),
        verbs=_VERBS,
        hint="" if constrainable else _hint(inspected, env_folder),
        constrainable=constrainable,
        auto_remove=bool(host.get("AutoRemove")),
        shared_by=tuple(shared_by),
        authority=has_authority(inspected),
        unhealthy=part(state, "Health").get("Status") == "unhealthy",
        memory_limit_bytes=limit if 0 < limit < AS_GOOD_AS_NONE_BYTES else None,
        environment=_environment(words(config.get("Env"))),
    )
    cannot = _why_not(reading, labels)
    return replace(reading, verbs=("limit",), cannot=cannot) if cannot else reading


EVENTS = ("oom", "die", "health_status")
"""What Docker is asked to tell of a container by itself."""


def told_of(event: Mapping[str, Any], name: str) -> Told | None:
    """What an event says of the container of this name; Docker's filter passes names that begin so too."""
    about = part(part(event, "Actor"), "Attributes")
    if about.get("name") != name:
        return None
    kind, _, detail = text(event.get("Action")).partition(":")
    match kind, detail.strip():
        case "oom", _:
            return Told(Happening.OUT_OF_MEMORY)
        case "die", _:
            return Told(Happening.ENDED, _exit_code(text(about.get("exitCode"))))
        case "health_status", "unhealthy":
            return Told(Happening.UNHEALTHY)
        case "health_status", "healthy":
            return Told(Happening.HEALTHY)
    return None


def joins(inspected: Mapping[str, Any]) -> frozenset[str]:
    """The containers (ids or names) whose network, processes or shared memory a container lives in."""
    host = part(inspected, "HostConfig")
    modes = (text(host.get(key)) for key in ("NetworkMode", "PidMode", "IpcMode"))
    joined = (mode.removeprefix("container:") for mode in modes if mode.startswith("container:"))
    return frozenset(filter(None, joined))


def _state_of(state: Mapping[str, Any]) -> RuntimeState:
    if state.get("Restarting") or state.get("Status") == "removing":
        return RuntimeState.CHANGING
    if state.get("Paused"):
        return RuntimeState.PAUSED
    match state.get("Running"):
        case True:
            return RuntimeState.RUNNING
        case False:
            return RuntimeState.STOPPED
    return RuntimeState.UNKNOWN


def _why_not(reading: RuntimeReading, labels: Mapping[str, str]) -> str:
    """Why the container is neither stopped nor started, in one sentence, or ""."""
    if reading.auto_remove:
        return f"the container {reading.name} was run with --rm: stopping it would delete it and its volumes"
    if reading.shared_by:
        others = ", ".join(reading.shared_by)
        return f"{others} lives in the namespaces of the container {reading.name} and would lose them"
    for label, who in _ORCHESTRATORS.items():
        if label in labels:
            return f"{who} {labels[label]} would start another container in the place of {reading.name}"
    if reading.state is RuntimeState.PAUSED:
        return f"the container {reading.name} is paused, by somebody who has a reason"
    return ""


def _hint(inspected: Mapping[str, Any], env_folder: str) -> str:
    lines = []
    if not _has_mount(inspected, env_folder):
        lines.append(f'in volumes "{env_folder}:{INSIDE_FOLDER}:ro"')
    if not _has_entrypoint(inspected):
        lines.append(
            f'in volumes "{ENTRYPOINT}:{ENTRYPOINT}:ro", and entrypoint: ["/bin/sh", "{ENTRYPOINT}"]'
        )
    return (
        f"to let it be constrained, its service in the compose file needs {'; '.join(lines)} "
        "(`ollama-guard init` writes it)"
    )


def _has_entrypoint(inspected: Mapping[str, Any]) -> bool:
    entrypoint = words(part(inspected, "Config").get("Entrypoint"))
    return any(PurePath(word).name == PurePath(ENTRYPOINT).name for word in entrypoint)


def _has_mount(inspected: Mapping[str, Any], env_folder: str) -> bool:
    """Whether the file that its entrypoint reads is the one that this guard writes.

    By the mount's source; a guard that is a container itself can't know that, but has it at the same place.
    """
    lines = dict(line.split("=", 1) for line in words(part(inspected, "Config").get("Env")) if "=" in line)
    file = PurePath(lines.get(FILE_VARIABLE) or f"{INSIDE_FOLDER}/ollama.env")
    for mount in map(table, listed(inspected.get("Mounts"))):
        source, inside = PurePath(text(mount.get("Source"))), PurePath(text(mount.get("Destination")))
        if inside in file.parents:
            written = (source / file.relative_to(inside)).parent
            return PurePath(env_folder) in (written, inside)
    return False


def _started_at(state: Mapping[str, Any], clocks: Clocks) -> float | None:
    # 0001 is "never". The fractions count: what was written a moment before the start was read.
    try:
        started = datetime.fromisoformat(text(state.get("StartedAt"))).timestamp()
    except (ValueError, OverflowError):
        return None
    return clocks.boottime - (clocks.wall - started) if started > 0 else None


def _exit_code(code: str) -> int | None:
    """A program's status: three digits at most."""
    return int(code) if code.isascii() and code.isdecimal() and len(code) <= 3 else None


def _environment(lines: Sequence[str]) -> dict[str, str]:
    """What the guard might set itself; all else can be a secret, and a reading is recorded."""
    pairs = [line.partition("=") for line in lines]
    return {key: value[:200] for key, _, value in pairs if key in ENVIRONMENT_KEYS}


def part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of an answer; an empty one where it is missing or odd."""
    return table(document.get(key))
