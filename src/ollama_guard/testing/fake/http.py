"""Just enough HTTP/1.1 on asyncio for the fake: a server that notices at once when its client leaves.

One thread serves everything, so that the server may fork its runners safely. The handler is
cancelled when the client's connection ends, as Go cancels a request's context.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

_DRIP_SECONDS = 1.0  # one byte a second: slow enough to fool time-outs that start anew at each byte


class ApiError(Exception):
    """Ends a request with ``{"error": text}`` and this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keeps_alive: bool
    chunks: bool

    def json(self) -> dict[str, Any]:
        """The body as an object; ApiError 400 with Go's words on anything else."""
        if not self.body.strip():
            raise ApiError(400, "missing request body")
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise ApiError(400, "invalid character in request body") from error
        if not isinstance(value, dict):
            raise ApiError(400, "json: cannot unmarshal value into Go value")
        return value


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: ``body``, or ``stream`` when it is made piece by piece, or ``raw`` instead of both.

    ``raw`` goes out as it is and the connection is closed; ``drip`` sends one byte a second.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None
    raw: bytes | None = None
    drip: bool = False


Handler = Callable[[Request], Awaitable[Response]]


def json_response(value: Any, status: int = 200) -> Response:
    """``value`` as a JSON answer."""
    return Response(status, json.dumps(value, ensure_ascii=False).encode())


async def serve(handler: Handler, **listen: Any) -> asyncio.Server:
    """Listen (``host`` and ``port``, or ``sock``) and answer with ``handler``."""
    return await asyncio.get_running_loop().create_server(lambda: _Connection(handler), **listen)


class _Connection(asyncio.Protocol):
    """One client: requests one after the other, each in a task that dies with the connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        if self._task is not None:
            return
        try:
            request = _take_request(self._buffer)
        except ValueError:
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            self._transport.close()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._handler(request)
            done = await self._send(request, response)
        except ApiError as error:
            done = await self._send(request, json_response({"error": str(error)}, error.status))
        except Exception:  # noqa: BLE001 - a defect of the fake must show, and must not end the server
            traceback.print_exc(file=sys.stderr)
            done = await self._send(request, json_response({"error": "defect of the fake"}, 500))
        self._task = None
        if done and request.keeps_alive:
            self._next()
        else:
            self._transport.close()

    async def _send(self, request: Request, response: Response) -> bool:
        """Write the answer; False when the connection must be closed after it."""
        if response.raw is not None:
            self._transport.write(response.raw)
            return False
        head = _head(request, response)
        body = b"" if request.method == "HEAD" else response.body
        if response.drip:
            for byte in head + body:
                self._transport.write(bytes([byte]))
                await asyncio.sleep(_DRIP_SECONDS)
            return True
        self._transport.write(head + body)
        if response.stream is not None:
            await self._send_stream(response.stream, chunks=request.chunks)
        return True

    async def _send_stream(self, stream: AsyncIterator[bytes], *, chunks: bool) -> None:
        async for piece in stream:
            await self._writable.wait()
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunks else piece)
        if chunks:
            self._transport.write(b"0\r\n\r\n")


def _head(request: Request, response: Response) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {_phrase(response.status)}",
        f"Content-Type: {response.content_type}",
    ]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if response.stream is None:
        lines.append(f"Content-Length: {len(response.body)}")
    elif request.chunks:
        lines.append("Transfer-Encoding: chunked")
    if not request.keeps_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "status code"


def _take_request(buffer: bytearray) -> Request | None:
    """Cut one whole request off the buffer; None when it is not complete, ValueError when it is not HTTP."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    taken = _take_body(buffer, end + 4, headers)
    if taken is None:
        return None
    body, used = taken
    del buffer[:used]
    modern = version == "HTTP/1.1"
    keeps_alive = modern and headers.get("connection", "").lower() != "close"
    return Request(method, target.partition("?")[0], headers, body, keeps_alive, modern)


def _take_body(buffer: bytearray, start: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        end = start + int(headers.get("content-length") or 0)
        return (bytes(buffer[start:end]), end) if len(buffer) >= end else None
    body = b""
    while (line_end := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line_end].partition(b";")[0], 16)
        end = line_end + 2 + size
        if len(buffer) < end + 2:
            return None
        body += buffer[line_end + 2 : end]
        start = end + 2
        if size == 0:
            return body, start
    return None
