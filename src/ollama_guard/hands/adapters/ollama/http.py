"""One HTTP exchange with a total deadline, a body cap and no surprises.

httpx's timeouts hold for each single receive, so a server that sends a byte a second, in the body or
in the headers, is never too slow for them. Here the network stream itself knows the deadline: each
receive and send gets what is left of it. Every failure is an `OllamaError`.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from ollama_guard import __version__
from ollama_guard.core.events import one_line
from ollama_guard.errors import OllamaError

# Bytes; the longest honest answer (/api/tags of 2,000 models) stays below it.
BODY_LIMIT = 1024 * 1024
# Characters of a foreign error text that are worth repeating.
TEXT_LIMIT = 200
_HEADERS = {
    "User-Agent": f"ollama-guard/{__version__}",
    "Accept": "application/json",
    "Content-Type": "application/json",
    # A compressed answer could be far larger than the cap on what came over the wire.
    "Accept-Encoding": "identity",
}
_UNREACHABLE = (
    httpcore.ConnectError,
    httpcore.UnsupportedProtocol,
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
)
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, httpx.StreamError, ValueError)


def exchange(
    base_url: str,
    method: str,
    path: str,
    deadline_seconds: float,
    body: dict[str, Any] | None = None,
    *,
    silent: bool = False,
) -> Any:
    """One request and its answer as JSON, within ``deadline_seconds`` in total; ``silent``: no body is right.

    Raises:
        OllamaError: with the kind refused, timeout, too_large, bad_answer, http_error, not_found or redirect.
    """
    where = f"{method} {path}"
    content = None if body is None else json.dumps(body).encode("ascii")
    try:
        with (
            _Transport(time.monotonic() + deadline_seconds) as transport,
            httpx.Client(transport=transport, trust_env=False, headers=_HEADERS) as client,
            client.stream(method, base_url.rstrip("/") + path, content=content) as response,
        ):
            return _judged(where, response.status_code, _read(response, where), silent=silent)
    except httpcore.TimeoutException as problem:
        raise OllamaError("timeout", f"{where} was not answered within {deadline_seconds:.1f} s") from problem
    except _UNREACHABLE as problem:
        raise OllamaError("refused", f"{where}: can't connect: {_said(problem)}") from problem
    except _BROKEN as problem:
        raise OllamaError("bad_answer", f"{where}: the answer broke off: {_said(problem)}") from problem


def _read(response: httpx.Response, where: str) -> bytes:
    status = response.status_code
    if 300 <= status < 400:
        raise OllamaError(
            "redirect", f"{where} was answered with a redirect ({status}), which is not followed"
        )
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > BODY_LIMIT:
            raise OllamaError("too_large", f"{where} was answered with more than {BODY_LIMIT} bytes")
    return bytes(content)


def _judged(where: str, status: int, content: bytes, *, silent: bool = False) -> Any:
    if silent and status == 200 and not content:
        return None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as problem:
        if status == 200:
            shown = one_line(content[:60].decode("utf-8", "replace"))
            raise OllamaError("bad_answer", f"{where}: the answer is not JSON: {shown!r}") from problem
        answer = None
    if status == 200:
        return answer
    text = answer.get("error") if isinstance(answer, dict) else None
    shown = one_line(text, TEXT_LIMIT) if isinstance(text, str) else "no reason given"
    raise OllamaError(
        "not_found" if status == 404 else "http_error", f"{where} was answered with {status}: {shown}"
    )


def _said(problem: Exception) -> str:
    return one_line(str(problem) or type(problem).__name__, TEXT_LIMIT)


class _Transport(httpx.BaseTransport):
    """A transport for one request, on connections that keep the deadline; it raises httpcore's exceptions."""

    def __init__(self, deadline: float) -> None:
        self._pool = httpcore.ConnectionPool(network_backend=_Backend(deadline))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and read the answer's head; the body is read by who iterates it."""
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.read(),
            )
        )
        assert isinstance(answer.stream, Iterable)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream))

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """An answer's body as it comes."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        """Give the connection back to the pool, which closes it if the answer was not read to its end."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


class _Backend(httpcore.SyncBackend):
    """Opens connections whose every step gets what is left of one deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  (the deadline takes its place)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect within what is left of the deadline."""
        left = _left(self._deadline, httpcore.ConnectTimeout)
        stream = super().connect_tcp(host, port, left, local_address, socket_options)
        return _Stream(stream, self._deadline)


class _Stream(httpcore.NetworkStream):
    """A connection whose every receive and send gets what is left of the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  (as above)
        """Receive what there is."""
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  (as above)
        """Send; our requests fit into one segment, so one timeout is enough."""
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  (as above)
    ) -> httpcore.NetworkStream:
        """The same connection, encrypted, under the same deadline."""
        left = _left(self._deadline, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of the socket beneath."""
        return self._stream.get_extra_info(info)


def _left(deadline: float, late: type[httpcore.TimeoutException]) -> float:
    """Seconds until the deadline; raises ``late`` when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise late("the total deadline has passed")
    return left
