"""A proxy in front of Ollama that passes answers on as they come, and notes when, with their last record."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Call:
    """One POST to ``/api/generate``: what was asked, CLOCK_BOOTTIME seconds, and how the answer ended."""

    asked: dict[str, Any]
    asked_at: float
    first_at: float
    ended_at: float
    last: dict[str, Any]


class Tap:
    """Enter it; `url` is where to ask instead of the server at ``upstream``, a port of 127.0.0.1."""

    def __init__(self, upstream: int) -> None:
        self.calls: list[Call] = []
        tap = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked_at = _now()
                connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=300)
                with contextlib.closing(connection), contextlib.suppress(OSError):
                    connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    self.send_response_only(answer.status)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    first_at, last = 0.0, b""
                    while line := answer.readline():
                        first_at, last = first_at or _now(), line
                        self.wfile.write(line)
                    if self.path == "/api/generate":
                        record = json.loads(last)
                        tap.calls.append(Call(json.loads(body), asked_at, first_at, _now(), record))

            do_GET = do_POST = do_DELETE = _pass  # noqa: N815  (the library's names)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where to ask."""
        return f"http://127.0.0.1:{self._server.server_port}"


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
