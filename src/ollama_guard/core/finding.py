"""One misconfiguration as `doctor` tells it, and where a line that mends it goes, however Ollama is run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum

from ollama_guard.core.checks import Check
from ollama_guard.core.machine import ContainerFacts, Server
from ollama_guard.core.policy import MIB
from ollama_guard.core.protection import read_by_itself, recreate, restart_unit
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import listens_at


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
            return f"docker stop {called(server)}"
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
            return f"the unit's files ({_systemctl(server)} edit --full {server.name})"
        case RuntimeKind.DOCKER:
            return _compose_place(server, "environment") or "the options of its docker run"
        case RuntimeKind.PROCESS:
            return "the environment that it is started with"


def restart(server: Server) -> str:
    """The command that makes what was written effective."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            user = "--user " if server.users_own else ""
            return restart_unit(server.name).replace("systemctl ", f"systemctl {user}")
        case RuntimeKind.DOCKER:
            return _recreate(server) or "make the container anew with it"
        case RuntimeKind.PROCESS:
            return "stop it and start it again"


def set_environment(server: Server, key: str, value: str) -> str:
    """How to set one variable of its environment."""
    match server.kind:
        case RuntimeKind.SYSTEMD:
            return set_in_unit(server, f"Environment={key}={value}")
        case RuntimeKind.DOCKER:
            where = _compose_place(server, "environment")
            if where:
                return f'{key}: "{value}" under {where}, then: {_recreate(server)}'
            return f"--env {key}={value} among the options of its docker run; {restart(server)}"
        case RuntimeKind.PROCESS:
            return f"start it with {key}={value} in its environment: {key}={value} ollama serve"


def publish_locally(server: Server, port: str) -> str:
    """How to publish a container's port on loopback alone."""
    where = _compose_place(server, "ports")
    if where:
        return f'- "127.0.0.1:{port}:11434" under {where}, then: {_recreate(server)}'
    return f"-p 127.0.0.1:{port}:11434 among the options of its docker run; {restart(server)}"


def set_in_unit(server: Server, line: str) -> str:
    """How to set one line of its unit."""
    edit = f"{_systemctl(server)} edit {shlex.quote(server.name)}"
    return f"{line} under [Service] ({edit}), then: {restart(server)}"


def no_throttle(server: Server) -> str:
    """How to take away its memory.high."""
    if server.kind is RuntimeKind.SYSTEMD:
        return set_in_unit(server, "MemoryHigh=infinity")
    return _into_cgroup(server, "memory.high", "max")


def set_limit(server: Server, limit_bytes: int) -> str:
    """How to limit its memory, and its swap with it."""
    megabytes = f"{limit_bytes // MIB}m"
    match server.kind:
        case RuntimeKind.SYSTEMD:
            return set_in_unit(server, f"MemoryMax={limit_bytes // MIB}M")
        case RuntimeKind.DOCKER:
            where = _compose_place(server, "")
            if where:
                lines = f"mem_limit: {megabytes} and memswap_limit: {megabytes}"
                return f"{lines} under {where}, then: {_recreate(server)}"
            return f"docker update --memory {megabytes} --memory-swap {megabytes} {called(server)}"
        case RuntimeKind.PROCESS:
            file = "memory.limit_in_bytes" if server.cgroup_version == 1 else "memory.max"
            return _into_cgroup(server, file, limit_bytes)


def keep_from_swap(server: Server, limit_bytes: int | None, areas: str) -> str:
    """How to keep it out of swap; ``limit_bytes`` is its memory limit, ``areas`` the swap that there is.

    Where nothing but the machine's swap can be changed, that is switched off.
    """
    old = server.cgroup_version == 1
    if server.kind is RuntimeKind.SYSTEMD and not old:
        return set_in_unit(server, "MemorySwapMax=0")
    if server.kind is RuntimeKind.DOCKER and limit_bytes is not None:
        megabytes = f"{limit_bytes // MIB}m"
        where = _compose_place(server, "")
        if where:
            return f"memswap_limit: {megabytes} under {where}, then: {_recreate(server)}"
        return f"docker update --memory {megabytes} --memory-swap {megabytes} {called(server)}"
    if server.kind is RuntimeKind.PROCESS and server.cgroup.strip("/") and server.cgroup_directory:
        if not old:
            return _into_cgroup(server, "memory.swap.max", 0)
        if limit_bytes is not None:
            return _into_cgroup(server, "memory.memsw.limit_in_bytes", limit_bytes)
    return f"swapoff {areas}, and # before its line in /etc/fstab"


def _into_cgroup(server: Server, file: str, value: int | str) -> str:
    return f"echo {value} > {shlex.quote(f'{server.cgroup_directory}/{file}')}"


def _systemctl(server: Server) -> str:
    return "systemctl --user" if server.users_own else "systemctl"


def _compose_place(server: Server, part: str) -> str:
    """``services.NAME.environment in FILE``; "" where no compose file keeps it."""
    compose = (server.container or ContainerFacts("", "")).compose
    if compose is None:
        return ""
    file = compose.config_files[0]
    path = file if file.startswith("/") else f"{compose.working_dir.rstrip('/')}/{file}"
    return ".".join(["services", compose.service, *([part] if part else [])]) + f" in {path}"


def _recreate(server: Server) -> str:
    compose = server.container.compose if server.container else None
    if compose is None:
        return ""
    return recreate(compose, compose.config_files[-1], by_itself=read_by_itself(compose))
