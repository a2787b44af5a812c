"""How Ollama is run, as hands find it by evidence, and the constraints that it is run under.

Values only; who judges them is `playbook` and `hardcap`, who finds them `hands`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class RuntimeKind(StrEnum):
    """Who starts and stops the server."""

    DOCKER = "docker"
    SYSTEMD = "systemd"
    PROCESS = "process"


class RuntimeState(StrEnum):
    """What the runtime says of it now."""

    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    CHANGING = "changing"
    """Starting, stopping, restarting, being upgraded."""
    GONE = "gone"
    UNKNOWN = "unknown"


AWAY = "absent"
"""The error of a runtime whose Docker or systemd is not there now."""


@dataclass(frozen=True, slots=True)
class RuntimeReading:
    """One runtime, read once.

    ``name`` is the unit's (``ollama.service``) or the container's, ``id`` the container's full id,
    ``server_pid`` its main process in the host's numbers (the unit's MainPID, the container's State.Pid).
    ``verbs`` are those of ``stop start limit`` that may be used on it here; ``cannot`` says in one
    sentence why one is missing, ``hint`` what the owner could change to get it. ``constrainable`` is whether
    it reads the environment file at its start. With ``auto_remove`` or ``shared_by`` (others live in its
    namespaces, or systemd would stop them with it) it is never stopped. ``authority`` is whether it carries
    the label ``ollama-guard.authority=server``. ``started_at`` is in boottime seconds. ``error`` is a short
    stable word when it could not be read now.

    What an earlier boot's guard left behind: ``stopped_by_us``, it is stopped and the guard did that;
    ``left_lines``, the lines in its environment file; ``owners_limit_bytes``, what its container could hold
    before the guard's own limit (0 = no limit; None while the guard has set none).
    """

    kind: RuntimeKind
    name: str
    state: RuntimeState = RuntimeState.UNKNOWN
    read_at: float = 0.0
    id: str = ""
    server_pid: int | None = None
    started_at: float | None = None
    verbs: tuple[str, ...] = ()
    cannot: str = ""
    hint: str = ""
    constrainable: bool = False
    auto_remove: bool = False
    shared_by: tuple[str, ...] = ()
    authority: bool = False
    unhealthy: bool = False
    memory_limit_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    reason: str = ""
    stopped_by_us: bool = False
    left_lines: Mapping[str, str] = field(default_factory=dict)
    owners_limit_bytes: int | None = None


class Happening(StrEnum):
    """What a runtime tells of a server by itself; ground for a look at it, never for an act."""

    OUT_OF_MEMORY = "oom"
    ENDED = "die"
    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Told:
    """One such word; ``exit_code`` is of one that ended (128 + N: by the signal N)."""

    happening: Happening
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Live limits of a server's cgroup; None = leave as it is. Never below what it uses."""

    memory_bytes: int | None = None
    cpus: float | None = None


ENVIRONMENT_KEYS = frozenset(
    {
        "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_NUM_PARALLEL", "OLLAMA_KEEP_ALIVE", "OLLAMA_MAX_QUEUE",
        "OLLAMA_CONTEXT_LENGTH", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_FLASH_ATTENTION", "OLLAMA_NOPRUNE",
        "LLAMA_ARG_CACHE_RAM",
    }
)  # fmt: skip
"""What may stand in the environment file; anything else is refused (design, section 6)."""

# Docker's own cgroups: ``/docker/<id>`` (cgroupfs), ``docker-<id>.scope`` (systemd), below any parent.
# Those of podman, CRI-O and containerd carry a prefix of theirs.
_CONTAINER_ID = re.compile(r"(?:docker-)?([0-9a-f]{64})(?:\.scope)?")


def container_id_of(cgroup: str) -> str | None:
    """The id of the innermost Docker container that a cgroup path lies in, or None."""
    found = (_CONTAINER_ID.fullmatch(part) for part in reversed(cgroup.split("/")))
    return next((match[1] for match in found if match), None)


def is_in_unit(cgroup: str) -> bool:
    """Whether a cgroup path lies in a service of systemd's (which may be a user's own: see MainPID)."""
    return any(part.endswith(".service") for part in cgroup.split("/"))
