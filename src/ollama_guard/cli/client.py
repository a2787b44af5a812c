"""HTTP over the guard's two unix sockets."""

from __future__ import annotations

import errno
import json
import ssl
from pathlib import Path
from typing import Any

import httpx

from ollama_guard.errors import GuardError, ServiceUnavailable

READ_SECONDS = 5.0  # seconds: the status is in memory
ACT_SECONDS = 180.0  # seconds: the daemon answers within its own deadline, which is shorter by default

# There is no TLS on a unix socket: reading the machine's certificates for it would cost 20 ms each time.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

OK = 200
NO_ANSWER = 503
GROUPS = {"status.sock": "ollama-guard", "control.sock": "ollama-guard-admin"}


class NotRunning(ServiceUnavailable):
    """Nobody listens on the socket."""


class NoPermission(ServiceUnavailable):
    """This user may not use the socket."""


def get_status(runtime_dir: Path, seconds: float = READ_SECONDS) -> dict[str, Any]:
    """The running daemon's status document.

    Raises:
        NotRunning: no daemon.
        NoPermission: this user is not in the socket's group.
        ServiceUnavailable: no answer.
    """
    socket = runtime_dir / "status.sock"
    status, document = _asked(socket, "GET", "/status", None, seconds)
    if status != OK:
        raise ServiceUnavailable(
            f"the guard behind {socket} has no status yet ({document.get('error', status)})"
        )
    return document


def get_models(runtime_dir: Path, seconds: float = READ_SECONDS) -> dict[str, Any]:
    """What the running daemon says of every installed model (`core.installed`).

    Raises:
        NotRunning, ServiceUnavailable: as `get_status`.
    """
    return _listed(runtime_dir, "models", seconds)


def get_tiers(runtime_dir: Path, seconds: float = READ_SECONDS) -> dict[str, Any]:
    """What the running daemon says of the ladder (`core.tierstatus`).

    Raises:
        NotRunning, ServiceUnavailable: as `get_status`.
    """
    return _listed(runtime_dir, "tiers", seconds)


def get_playbooks(runtime_dir: Path, seconds: float = READ_SECONDS) -> dict[str, Any]:
    """What the running daemon says of every playbook (`core.plan`).

    Raises:
        NotRunning, ServiceUnavailable: as `get_status`.
    """
    return _listed(runtime_dir, "playbooks", seconds)


def _listed(runtime_dir: Path, what: str, seconds: float) -> dict[str, Any]:
    """The daemon's document of all models, tiers or playbooks."""
    socket = runtime_dir / "status.sock"
    status, document = _asked(socket, "GET", f"/{what}", None, seconds)
    if status != OK or not isinstance(document.get(what), list):
        raise ServiceUnavailable(
            f"the guard behind {socket} can't tell of {what} now ({document.get('error', status)})"
        )
    return document


def act(runtime_dir: Path, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a wish to the control socket; its answer ``{"ok", "text", "detail"}``.

    Raises:
        NotRunning, ServiceUnavailable: as `get_status`.
    """
    status, answer = _asked(runtime_dir / "control.sock", "POST", path, body, ACT_SECONDS)
    if status == NO_ANSWER:
        raise ServiceUnavailable(f"the guard can't answer: {answer.get('text', 'no reason given')}")
    if not isinstance(answer.get("ok"), bool) or not isinstance(answer.get("text"), str):
        raise GuardError(f"the guard's answer ({status}) is not of this version: {json.dumps(answer)[:200]}")
    return answer


def _asked(
    socket: Path, verb: str, path: str, body: dict[str, Any] | None, seconds: float
) -> tuple[int, dict[str, Any]]:
    transport = httpx.HTTPTransport(uds=str(socket), verify=_NO_TLS)
    try:
        with httpx.Client(transport=transport, timeout=seconds, trust_env=False) as client:
            response = client.request(verb, f"http://ollama-guard{path}", json=body)
    except httpx.TimeoutException:
        raise ServiceUnavailable(
            f"the guard behind {socket} has not answered within {seconds:.0f} s"
        ) from None
    except httpx.HTTPError as error:
        raise _unreachable(socket, error) from None
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ServiceUnavailable(
            f"what listens on {socket} is not this guard ({response.status_code}, no JSON)"
        )
    return response.status_code, answer


def _unreachable(socket: Path, error: BaseException) -> ServiceUnavailable:
    code = _errno(error)
    if code in (errno.EACCES, errno.EPERM):
        group = GROUPS[socket.name]
        return NoPermission(
            f"no permission on {socket}: run as root, or join its group with "
            f"`sudo usermod -aG {group} $USER` and log in again"
        )
    if code in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        return NotRunning(
            f"no guard is running (nobody listens on {socket}); start it with "
            "`systemctl start ollama-guard`, or in the foreground with `ollama-guard run`"
        )
    return ServiceUnavailable(f"the guard behind {socket} can't be asked: {error}")


def _errno(error: BaseException | None) -> int | None:
    """The operating system's error beneath the library's exceptions."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
