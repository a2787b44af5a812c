"""One Docker engine: calls under one total deadline, and their failures by name.

A time-out of the SDK is per socket operation, so an answer's body is read here, piece by piece, and no longer
and no more than may be. Where its head drips, the lane that the call runs in gives it up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import requests
from docker.api import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env
from requests.exceptions import ChunkedEncodingError
from urllib3.exceptions import HTTPError

from ollama_guard.core.events import one_line
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker.asleep import is_asleep

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
# The oldest API with a one-shot reading of use (Docker 20.10); said until the engine has told its own.
_FIRST_VERSION = "1.41"
# What the status of an answer says; all others are Docker's own no. A socket proxy answers by itself to what
# it does not grant, and in the place of a Docker that is away (HAProxy: 502, 503) or too slow (504).
_KINDS = {401: "denied", 403: "denied", 404: "gone", 502: "absent", 503: "absent", 504: "hanging"}
# What the SDK and the libraries below it raise; a stream is urllib3's own.
_FOREIGN = (
    requests.RequestException, HTTPError, DockerException, OSError, LookupError, ValueError, TypeError,
    AttributeError, RuntimeError,
)  # fmt: skip
# Bytes of a stream that are read at a time, and that one event may have; it has some hundreds.
_READ_BYTES, _LONGEST_EVENT = 2**16, 2**18
# Bytes of an answer; what Docker says of a container has some thousand, and it tells of all in one.
_LARGEST_ANSWER = 2**23
# Seconds; the SDK takes 0 for "no time-out".
_SHORTEST_SECONDS = 0.001
# What containerd 1.6 was seen to say, for good, of what such a start leaves; no call of Docker's clears it.
_HALF_MADE = re.compile(r"task \w+: already exists|id already in use|\.task/moby/\w+: file exists")
_MAKE_ANEW = (
    "Docker was killed during an earlier start of it and can't start it again: make the container anew"
    " (docker compose up --detach --force-recreate)"
)


class Call:
    """The calls of one operation; each may take what is left of its time, and raises only `RuntimeFailed`."""

    def __init__(self, client: Any, engine: Engine, deadline_at: float) -> None:
        self.engine = engine
        self._client = client
        self._address = engine.address
        self._deadline_at = deadline_at

    @property
    def left_seconds(self) -> float:
        """What is left of the total deadline, never 0."""
        return max(self._deadline_at - time.monotonic(), _SHORTEST_SECONDS)

    @contextlib.contextmanager
    def _api(self) -> Iterator[Any]:
        self._client.timeout = self.left_seconds
        with naming(self._address):
            knock(self._address, self.left_seconds)
            yield self._client

    def inspect(self, container: str) -> dict[str, Any]:
        """All that Docker knows of a container."""
        with self._api() as api:
            return _mapping(api.inspect_container(container))

    def known(self, container: str) -> dict[str, Any] | None:
        """As `inspect`; None for one that Docker doesn't know."""
        try:
            return self.inspect(container)
        except RuntimeFailed as problem:
            if problem.kind == "gone":
                return None
            raise

    def running(self) -> list[dict[str, Any]]:
        """Every container that runs or is paused, in short."""
        with self._api() as api:
            return [_mapping(entry) for entry in api.containers()]

    def stop(self, container: str, grace_seconds: int, spare_seconds: float) -> None:
        """SIGTERM, then SIGKILL; no restart policy brings it back. ``spare_seconds`` are left over."""
        with self._api() as api:
            # The SDK adds the grace to its time-out.
            api.timeout = max(self.left_seconds - grace_seconds - spare_seconds, _SHORTEST_SECONDS)
            api.stop(container, timeout=grace_seconds)

    def start(self, container: str) -> None:
        """Start it; one that runs is left alone."""
        with self._api() as api:
            api.start(container)

    def stats(self, container: str) -> dict[str, Any]:
        """What it uses now, without the second reading that takes a second."""
        with self._api() as api:
            return _mapping(api.stats(container, stream=False, one_shot=True))

    def update(self, container: str, changes: Mapping[str, int]) -> None:
        """Change live limits; the SDK's own call doesn't know ``NanoCpus``."""
        with self._api() as api:
            url = f"{api.base_url}/v{api.api_version}/containers/{container}/update"
            response = api.post(url, json=dict(changes), timeout=self.left_seconds)
            if not response.ok:
                raise RuntimeFailed(_KINDS.get(response.status_code, "refused"), _said(response))

    def events(
        self, container: str, kinds: Sequence[str], since: float, until: float, slack_seconds: float
    ) -> Iterator[dict[str, Any]]:
        """What happens, as it happens, to all containers whose name or id begins like this.

        ``since`` and ``until`` are epoch seconds. It ends then, or with the engine; silence is no failure,
        but what has not ended ``slack_seconds`` later is given up. The SDK's own call knows no time-out, and
        takes an error's text for an event.
        """
        filters = {"type": ["container"], "container": [container], "event": list(kinds)}
        asked = {"since": f"{since:.9f}", "until": f"{until:.9f}", "filters": json.dumps(filters)}
        with self._api() as api:
            patience = max(0.0, until - time.time()) + slack_seconds
            over_at = time.monotonic() + patience
            url = f"{api.base_url}/v{api.api_version}/events"
            answer = api.get(url, params=asked, stream=True, timeout=(self.left_seconds, patience))
            with contextlib.closing(answer):
                if not answer.ok:
                    raise RuntimeFailed(_KINDS.get(answer.status_code, "refused"), _said(answer))
                for line in _lines(answer.iter_content(_READ_BYTES), over_at):
                    yield _mapping(json.loads(line))


class Engine:
    """One engine at one address; each operation opens a connection of its own: a restart is no matter.

    ``owner`` is the user whose rootless one it is, None for the machine's own and for a configured one.
    """

    def __init__(self, address: str, owner: int | None = None) -> None:
        self.address = address
        self.owner = owner
        self._version: str | None = None

    @contextlib.contextmanager
    def calls(self, deadline_seconds: float) -> Iterator[Call]:
        """The calls of one operation; whatever goes wrong in it is raised as `RuntimeFailed`."""
        if deadline_seconds <= 0:
            raise RuntimeFailed("hanging", f"no time was left to ask Docker at {self.address}")
        deadline_at = time.monotonic() + deadline_seconds
        try:
            with naming(self.address):
                knock(self.address, deadline_seconds)
                if self._version is None:
                    with contextlib.closing(self._client(_FIRST_VERSION, deadline_seconds)) as client:
                        self._version = str(client.version(api_version=False)["ApiVersion"])
                client = self._client(self._version, deadline_seconds)
            with contextlib.closing(client):
                yield Call(client, self, deadline_at)
        except RuntimeFailed as problem:
            if problem.kind in ("absent", "hanging", "bad_answer"):
                self._version = None  # it may be another engine by the next call
            raise

    def _client(self, version: str, timeout_seconds: float) -> Any:
        chosen = kwargs_from_env({**os.environ, "DOCKER_HOST": self.address})
        client = APIClient(version=version, timeout=timeout_seconds, **chosen)
        client.trust_env = False
        client.hooks["response"].append(partial(_read_whole, time.monotonic() + timeout_seconds))
        return client


def knock(address: str, timeout_seconds: float) -> None:
    """Connect once before the SDK does, which leaves its socket open when nobody listens; not to wake it."""
    scheme, _, path = address.partition("://")
    if scheme in ("unix", "http+unix"):
        if is_asleep(path):
            text = f"Docker is stopped, and to connect to {address} would start it (docker.socket)"
            raise RuntimeFailed("absent", text)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_seconds)
            sock.connect(path)


@contextlib.contextmanager
def naming(address: str) -> Iterator[None]:
    """Raise our own exception for whatever goes wrong inside."""
    try:
        yield
    except _FOREIGN as bad:
        raise named(bad, address) from bad


def named(problem: Exception, address: str) -> RuntimeFailed:
    """Our own exception for one of the SDK's, of requests' or of the socket's."""
    if isinstance(problem, NotFound):
        return RuntimeFailed("gone", f"Docker does not know it: {_explained(problem)}")
    if isinstance(problem, APIError):
        kind = _KINDS.get(problem.status_code, "refused")
        verb = "refused" if kind in ("refused", "denied") else "is not there to answer"
        return RuntimeFailed(kind, f"Docker {verb}: {_explained(problem)}")
    cause = _system_error(problem)
    if isinstance(problem, requests.Timeout) or isinstance(cause, (TimeoutError, BlockingIOError)):
        return RuntimeFailed("hanging", f"Docker at {address} did not answer in time")
    if isinstance(cause, PermissionError):
        return RuntimeFailed("denied", f"Docker's socket {address} may not be used by this user")
    if isinstance(cause, (FileNotFoundError, ConnectionRefusedError)):
        return RuntimeFailed("absent", f"no Docker listens at {address}: {cause.strerror}")
    if isinstance(problem, (requests.ConnectionError, ChunkedEncodingError, HTTPError)) or cause is not None:
        return RuntimeFailed("absent", f"Docker at {address} went away during the call")
    return RuntimeFailed("bad_answer", f"Docker at {address} answered oddly: {one_line(str(problem), 200)}")


def _explained(problem: APIError) -> str:
    text = one_line(str(problem.explanation or problem), 300)
    return f"{text}; {_MAKE_ANEW}" if _HALF_MADE.search(text) else text


def _read_whole(deadline_at: float, response: requests.Response, **call: Any) -> None:
    """Read an answer's body before requests does, without bounds; a stream is read by who asked for it."""
    if call.get("stream"):
        return
    body = bytearray()
    for piece in response.iter_content(_READ_BYTES):
        body += piece
        if len(body) > _LARGEST_ANSWER:
            response.close()
            raise ValueError(f"an answer of more than {_LARGEST_ANSWER} bytes")
        if time.monotonic() > deadline_at:
            response.close()
            raise TimeoutError
    response._content = bytes(body)  # noqa: SLF001  (where requests keeps what it has read itself)


def _lines(pieces: Iterable[bytes], over_at: float) -> Iterator[bytes]:
    """The lines of a stream until a monotonic time, none of them longer than an event may be."""
    rest = b""
    for piece in pieces:
        if time.monotonic() > over_at:
            raise TimeoutError
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, lines)
        if len(rest) > _LONGEST_EVENT:
            raise ValueError("an event without an end")
    if rest.strip():
        yield rest


def _said(response: Any) -> str:
    """Why an answer with an error's status was given, which may be longer than is to be kept."""
    try:
        text = str(response.json()["message"])
    except (ValueError, LookupError, TypeError):
        text = f"HTTP {response.status_code}"
    return one_line(text, 300)


def _system_error(problem: BaseException) -> OSError | None:
    """The socket's own error that a library's exception was made of."""
    queue: list[object] = [problem]
    for _ in range(20):  # exceptions hold each other in circles
        if not queue:
            break
        inner = queue.pop(0)
        if isinstance(inner, BaseException):
            if isinstance(inner, OSError) and not isinstance(inner, requests.RequestException):
                return inner
            queue += [*inner.args, getattr(inner, "reason", None), inner.__cause__, inner.__context__]
    return None


def _mapping(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError(f"{type(answer).__name__} instead of an object")
    return answer
