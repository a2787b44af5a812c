"""HTTP connections that keep one total deadline: what the adapters that speak HTTP share.

httpx's timeouts hold for each single receive, so a server that sends a byte a second, in the body or
in the headers, is never too slow for them. Here the network stream itself knows the deadline: each
receive and send gets what is left of it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import httpx

# Called while an answer is waited for, on the thread that waits; what it raises ends the request.
Meanwhile = Callable[[], None]
# Seconds between two such calls: twice as often as memory is looked at, so that no look is late.
MEANWHILE_SECONDS = 0.05


class TimedTransport(httpx.BaseTransport):
    """A transport for one request, on connections that keep the deadline; it raises httpcore's exceptions."""

    def __init__(self, deadline_seconds: float, meanwhile: Meanwhile | None = None) -> None:
        deadline = time.monotonic() + deadline_seconds
        self._pool = httpcore.ConnectionPool(network_backend=_Backend(deadline, meanwhile))

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

    def __init__(self, deadline: float, meanwhile: Meanwhile | None) -> None:
        self._deadline, self._meanwhile = deadline, meanwhile

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
        return _Stream(stream, self._deadline, self._meanwhile)


class _Stream(httpcore.NetworkStream):
    """A connection whose every receive and send gets what is left of the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float, meanwhile: Meanwhile | None) -> None:
        self._stream = stream
        self._deadline, self._meanwhile = deadline, meanwhile

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  (as above)
        """Receive what there is."""
        while self._meanwhile is not None:
            self._meanwhile()
            left = _left(self._deadline, httpcore.ReadTimeout)
            try:
                return self._stream.read(max_bytes, min(left, MEANWHILE_SECONDS))
            except httpcore.ReadTimeout:
                continue
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
        return _Stream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline, self._meanwhile
        )

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of the socket beneath."""
        return self._stream.get_extra_info(info)


def _left(deadline: float, late: type[httpcore.TimeoutException]) -> float:
    """Seconds until the deadline; raises ``late`` when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise late("the total deadline has passed")
    return left
