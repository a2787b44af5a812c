"""What ``docker inspect`` says of one container, for `init` and `doctor`: read once, nothing is changed.

By plain HTTP over Docker's socket, so that a machine where nobody installed Docker's library gets advice too.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ollama_guard.core.machine import ComposeFacts, ContainerFacts
from ollama_guard.errors import RuntimeFailed

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
# Bytes of an answer; that of a container with a hundred mounts is below 100 KiB.
BODY_LIMIT = 1024 * 1024
_OK, _UNKNOWN = 200, 404
_COMPOSE = "com.docker.compose."
# Where the official image keeps its models (facts 6).
_HOME = "/root/.ollama"


def inspect(container: str, docker_host: str, deadline_seconds: float) -> ContainerFacts:
    """The facts of a container by its id or name; ``docker_host`` "" is DOCKER_HOST, else the usual socket.

    Raises:
        RuntimeFailed: with the kind absent, denied, gone, hanging, unsupported or bad_answer.
    """
    address = docker_host or os.environ.get("DOCKER_HOST", "") or DEFAULT_ADDRESS
    return facts_of(_answer(address, f"/containers/{container}/json", deadline_seconds))


def facts_of(inspected: Mapping[str, Any]) -> ContainerFacts:
    """The facts in an answer of ``GET /containers/ID/json``; what is missing or odd is left out."""
    config, host = _table(inspected.get("Config")), _table(inspected.get("HostConfig"))
    labels = {key: str(value) for key, value in _table(config.get("Labels")).items()}
    ports = [binding for bound in _table(host.get("PortBindings")).values() for binding in _list(bound)]
    memory = host.get("Memory")
    return ContainerFacts(
        id=str(inspected.get("Id", "")),
        name=str(inspected.get("Name", "")).removeprefix("/"),
        entrypoint=_words(config.get("Entrypoint")),
        command=_words(config.get("Cmd")),
        image=str(config.get("Image", "")),
        environment=_environment(config.get("Env")),
        memory_limit_bytes=memory if isinstance(memory, int) and memory > 0 else None,
        published=tuple(str(_table(binding).get("HostIp") or "0.0.0.0") for binding in ports),  # noqa: S104
        host_network=host.get("NetworkMode") == "host",
        auto_remove=host.get("AutoRemove") is True,
        authority=labels.get("ollama-guard.authority") == "server",
        models_source=_models_source(inspected.get("Mounts")),
        compose=_compose(labels),
    )


def _compose(labels: Mapping[str, str]) -> ComposeFacts | None:
    service, folder = labels.get(f"{_COMPOSE}service", ""), labels.get(f"{_COMPOSE}project.working_dir", "")
    files = tuple(file for file in labels.get(f"{_COMPOSE}project.config_files", "").split(",") if file)
    if not (service and folder.startswith("/") and files):
        return None
    return ComposeFacts(folder, files, service, labels.get(f"{_COMPOSE}version", ""))


def _models_source(mounts: object) -> str:
    """The host's folder of the image's model store, "" where it is not on a mount of its own."""
    for mount in map(_table, _list(mounts)):
        inside, source = str(mount.get("Destination", "")).rstrip("/"), str(mount.get("Source", ""))
        if source and inside in (_HOME, f"{_HOME}/models"):
            return source if inside.endswith("/models") else f"{source.rstrip('/')}/models"
    return ""


def _environment(said: object) -> dict[str, str]:
    pairs = (str(line).partition("=") for line in _list(said))
    return {key: value for key, separator, value in pairs if separator}


def _words(said: object) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else tuple(str(word) for word in _list(said))


def _table(said: object) -> Mapping[str, Any]:
    return said if isinstance(said, dict) else {}


def _list(said: object) -> Sequence[Any]:
    return said if isinstance(said, list) else []


def _answer(address: str, path: str, deadline_seconds: float) -> Mapping[str, Any]:
    deadline_at = time.monotonic() + deadline_seconds
    connection = _connection(address, deadline_seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return _judged(address, response.status, _body(response, deadline_at))
    except TimeoutError as problem:
        raise RuntimeFailed("hanging", f"Docker at {address} did not answer in time") from problem
    except PermissionError as problem:
        raise RuntimeFailed("denied", f"Docker's socket {address} may not be used by this user") from problem
    except OSError as problem:
        raise RuntimeFailed("absent", f"no Docker listens at {address}: {problem.strerror}") from problem
    except http.client.HTTPException as problem:
        raise RuntimeFailed("bad_answer", f"what listens at {address} is no Docker") from problem
    finally:
        connection.close()


def _body(response: http.client.HTTPResponse, deadline_at: float) -> bytes:
    content = bytearray()
    while chunk := response.read1():
        content += chunk
        if time.monotonic() > deadline_at:
            raise TimeoutError
        if len(content) > BODY_LIMIT:
            raise RuntimeFailed("bad_answer", f"Docker's answer is longer than {BODY_LIMIT} bytes")
    return bytes(content)


def _connection(address: str, seconds: float) -> http.client.HTTPConnection:
    scheme, separator, rest = address.partition("://")
    if scheme == "unix" or address.startswith("/"):
        return _UnixConnection(rest if separator else address, seconds)
    if scheme in ("tcp", "http"):
        return http.client.HTTPConnection(rest.rstrip("/"), timeout=seconds)
    raise RuntimeFailed("unsupported", f"{address}: allowed are unix:// and tcp:// addresses of a Docker")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """As the base class, by the path."""
        link = socket.socket(socket.AF_UNIX)
        try:
            link.settimeout(self.timeout)
            link.connect(self._path)
        except OSError:
            link.close()
            raise
        self.sock = link


def _judged(address: str, status: int, content: bytes) -> Mapping[str, Any]:
    if status == _UNKNOWN:
        raise RuntimeFailed("gone", f"Docker at {address} does not know this container")
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if status != _OK or not isinstance(answer, dict):
        raise RuntimeFailed("bad_answer", f"Docker at {address} answered {status}, and no container")
    return answer
