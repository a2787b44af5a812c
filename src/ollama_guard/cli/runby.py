"""How a server is run, as `init` and `doctor` must know it: whose files, and whose restart, are its own."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from ollama_guard.cli.bounded import read_within
from ollama_guard.cli.glance import ANSWER_SECONDS
from ollama_guard.cli.options import DEFAULT_STATE_DIR
from ollama_guard.cli.written import below
from ollama_guard.core.machine import ContainerFacts, runtime_of
from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.remembered import RememberedLimits, this_boot

_PROC = Path("/proc")


def run_by(server: ServerReading) -> tuple[RuntimeKind, str]:
    """(kind, name): the container it is in, the service whose main process it is, else a process of nobody's.

    One that merely lives in a service (cron's, supervisord's) is nobody's: what is written for that service
    would bound others, and its restart would end them.
    """
    kind, name = runtime_of(server.cgroup or "")
    if kind is not RuntimeKind.SYSTEMD:
        return kind, name
    own = _managers_child(server.pid) if "/user@" in (server.cgroup or "") else _main_process(server)
    return (kind, name) if own else (RuntimeKind.PROCESS, "")


def _main_process(server: ServerReading) -> bool:
    """Whether systemd says so; where it can't be asked, whether it looks so."""
    from ollama_guard.hands.adapters.systemd import SystemdRuntime

    file, book = EnvironmentFile(DEFAULT_STATE_DIR).path, RememberedLimits(DEFAULT_STATE_DIR)
    systemd = SystemdRuntime(file, book, this_boot())
    try:
        return systemd.find(server, ANSWER_SECONDS) is not None
    except RuntimeFailed:
        return _managers_child(server.pid)


def _managers_child(pid: int) -> bool:
    """Whether its parent is the first process, or a user's own systemd."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = _PROC.joinpath(str(pid), "status").read_text(encoding="utf-8", errors="replace")
        parent = int(status.partition("\nPPid:")[2].split()[0])
        return parent == 1 or _PROC.joinpath(str(parent), "comm").read_text(errors="replace") == "systemd\n"
    return False


def own_network(pid: int) -> bool:
    """Whether a process has a network of its own (podman, LXC); False also where that can't be told."""
    with contextlib.suppress(OSError):
        return not _PROC.joinpath(str(pid), "ns/net").samefile(_PROC / "self/ns/net")
    return False


def with_files(container: ContainerFacts | None, root: Path) -> ContainerFacts | None:
    """The facts, with whether the compose file is on this machine: Portainer's is in its own container."""
    compose = container.compose if container else None
    if container is None or compose is None:
        return container
    try:
        read_within(below(root, Path(compose.working_dir, compose.config_files[0])))
    except FileNotFoundError:
        return replace(container, compose=replace(compose, readable=False))
    except OSError:
        pass  # it is there, and drift says why it can't be read
    return container
