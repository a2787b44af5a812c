"""One misconfiguration as `doctor` tells it, and where a line that mends it goes, however Ollama is run.

What bounds memory and swap is `mending`'s.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ollama_guard.core.checks import Check
from ollama_guard.core.machine import ComposeFacts, Server
from ollama_guard.core.protection import is_guards, read_by_itself, recreate, restart_unit
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import listens_at

# A volume without a name: Docker makes a new, empty one for the next container.
_NAMELESS = re.compile(r"/volumes/[0-9a-f]{64}/")


class Severity(StrEnum):
    """``serious``: it can cost the machine, the server, or what the guard promises. ``advice``: the rest."""

    SERIOUS = "serious"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class Finding:
    """One misconfiguration: a stable word, what is so, why it matters, and the one thing to do."""

    check: Check
    what: str
    why: str
    mend: str
    severity: Severity = Severity.SERIOUS


def called(server: Server) -> str:
    """A container's name as commands take it."""
    return shlex.quote(server.container.name if server.container else server.name[:12])


def stop(server: Server) -> str:
    """The command that stops a server for good."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            return f"{_systemctl(server)} disable --now {shlex.quote(server.name)}"
        case RuntimeKind.DOCKER:
            gone = server.container is not None and server.container.auto_remove
            return f"docker stop {called(server)}{_deleted(server) if gone else ''}"
        case RuntimeKind.PROCESS:
            return f"kill {server.pid}"


def ask(server: Server | None, *words: str) -> str:
    """A command of the program ``ollama``, where this server hears it."""
    command = shlex.join(["ollama", *words])
    if server is not None and server.kind is RuntimeKind.DOCKER:
        return f"docker exec {called(server)} {command}"
    said = server.says("OLLAMA_HOST") if server else ""
    usual = listens_at(said) == listens_at("")
    return command if usual else f"OLLAMA_HOST={shlex.quote(said)} {command}"


def place(server: Server) -> str:
    """Where its environment is set."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            files = [*(server.unit.files if server.unit else ()), *_environment_files(server)]
            where = f": {', '.join(files)}" if files else ""
            return f"the unit's files ({_systemctl(server)} cat {server.name} shows them{where})"
        case RuntimeKind.DOCKER:
            return compose_place(server, "environment", 0, -1) or "the options of its docker run"
        case RuntimeKind.PROCESS:
            return "the environment that it is started with"


def restart(server: Server) -> str:
    """The command that makes what was written effective."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            user = "--user " if server.users_own else ""
            return restart_unit(server.name).replace("systemctl ", f"systemctl {user}")
        case RuntimeKind.DOCKER:
            return f"{_recreate(server) or 'make the container anew with it'}{_lost(server)}"
        case RuntimeKind.PROCESS:
            return "stop it and start it again"


def set_environment(server: Server, key: str, value: str) -> str:
    """How to set one variable of its environment."""
    return set_variables(server, {key: value})


def set_variables(server: Server, wanted: Mapping[str, str]) -> str:
    """How to set variables of its environment, all with one restart."""
    pairs = [f"{key}={value}" for key, value in wanted.items()]
    match server.kind:
        case RuntimeKind.SYSTEMD:
            files, keys = " or ".join(_environment_files(server)), " or ".join(f"{key}=" for key in wanted)
            wins = f"; a line {keys} in {files} would win over it: take that out" if files else ""
            return set_in_unit(server, " and ".join(f"Environment={pair}" for pair in pairs), wins)
        case RuntimeKind.DOCKER:
            where = compose_place(server, "environment")
            if where:
                lines = " and ".join(f'{key}: "{value}"' for key, value in wanted.items())
                return f"{lines} under {where}, then: {restart(server)}"
            options = " ".join(f"--env {pair}" for pair in pairs)
            return f"{options} among the options of its docker run; {restart(server)}"
        case RuntimeKind.PROCESS:
            return f"start it with {' '.join(pairs)} in its environment: {' '.join(pairs)} ollama serve"


def publish_locally(server: Server, port: int, inside: int) -> str:
    """How to publish a container's port ``inside`` on loopback alone; of several files' ports all count."""
    where = compose_place(server, "ports", 0)
    if where:
        return f'- "127.0.0.1:{port}:{inside}" instead of the old line under {where}, then: {restart(server)}'
    option = f"-p 127.0.0.1:{port}:{inside} instead of the old -p among the options of its docker run"
    return f"{option}; {restart(server)}"


def set_in_unit(server: Server, line: str, besides: str = "") -> str:
    """How to set one line of its unit; ``besides``: what else has to be done before its restart."""
    edit = f"{_systemctl(server)} edit {shlex.quote(server.name)}"
    return f"{line} under [Service] ({edit}){besides}, then: {restart(server)}"


def _systemctl(server: Server) -> str:
    return "systemctl --user" if server.users_own else "systemctl"


def _environment_files(server: Server) -> list[str]:
    """The owner's own files of variables; the guard's is not for people to edit."""
    files = server.unit.environment_files if server.unit else ()
    return [file for file in files if not is_guards(file)]


def _compose(server: Server) -> ComposeFacts | None:
    return server.container.compose if server.container else None


def compose_place(server: Server, part: str, *which: int) -> str:
    """``services.NAME.environment in FILE``; "" where no compose file keeps it.

    Of several files a value stands in the last, which wins over the others; ``which`` names others.
    """
    compose = _compose(server)
    if compose is None:
        return ""
    key = ".".join(["services", compose.service, *([part] if part else [])])
    if not compose.readable:
        return f"{key} of its stack, where that is kept (Portainer: its web page)"
    files = [compose.config_files[number] for number in which or (-1,)]
    folder = compose.working_dir.rstrip("/")
    paths = [file if file.startswith("/") else f"{folder}/{file}" for file in dict.fromkeys(files)]
    return f"{key} in {' or '.join(paths)}"


def _recreate(server: Server) -> str:
    compose = _compose(server)
    if compose is None:
        return ""
    if not compose.readable:
        return "deploy the stack anew there"
    return recreate(compose, compose.config_files[-1], by_itself=read_by_itself(compose))


def _lost(server: Server) -> str:
    """What to know before a container is made anew whose models may lie in it; "" where they don't."""
    facts = server.container
    if facts is not None and facts.models_source:
        compose_keeps = facts.compose is not None  # volumes without a name, too
        if compose_keeps or not _NAMELESS.search(facts.models_source):
            return ""
    name = called(server)
    return (
        " (its models are lost with the old container, unless they lie on a mount that the new one has, too:"
        f" docker inspect -f '{{{{.Mounts}}}}' {name} shows it. {_copied(server)})"
    )


def _deleted(server: Server) -> str:
    return (
        " (it was started with --rm: that deletes the container, and models that lie on no mount with a name."
        f" {_copied(server)})"
    )


def _copied(server: Server) -> str:
    folder = shlex.quote(server.says("OLLAMA_MODELS") or "/root/.ollama")
    return f"Copy them first: docker cp {called(server)}:{folder} ."
