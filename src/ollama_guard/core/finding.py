"""One misconfiguration as `doctor` tells it, and the commands that mend one of Ollama's settings."""

from __future__ import annotations

from dataclasses import dataclass

from ollama_guard.core.machine import Server
from ollama_guard.core.protection import DROP_IN, restart_unit
from ollama_guard.core.runtime import RuntimeKind


@dataclass(frozen=True, slots=True)
class Finding:
    """One misconfiguration: a stable word, what is so, why it matters, and what to do."""

    check: str
    what: str
    why: str
    mend: str


def stop(server: Server) -> str:
    """The command that stops a server for good."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            return f"systemctl disable --now {server.name}"
        case RuntimeKind.DOCKER:
            return f"docker stop {server.container.name if server.container else server.name[:12]}"
        case RuntimeKind.PROCESS:
            return f"kill {server.pid}"


def place(server: Server) -> str:
    """Where its environment is set."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            return f"the unit's files (systemctl cat {server.name})"
        case RuntimeKind.DOCKER:
            return "the container's environment (its compose file, or docker run -e)"
        case RuntimeKind.PROCESS:
            return "the environment that it is started with"


def set_environment(server: Server, key: str, value: str) -> str:
    """How to set one variable of its environment."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            return set_in_unit(server, f"Environment={key}={value}")
        case RuntimeKind.DOCKER:
            return f"{key}={value} in {place(server)}; `ollama-guard init` writes what can be written"
        case RuntimeKind.PROCESS:
            return f"start it with {key}={value} in its environment"


def set_in_unit(server: Server, line: str) -> str:
    """How to set one line of its unit."""
    return (
        f"{line} under [Service] (systemctl edit {server.name}), then: {restart_unit(server.name)}; or"
        f" `ollama-guard init --apply`, which writes {DROP_IN}"
    )
