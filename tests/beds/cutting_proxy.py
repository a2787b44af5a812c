"""An HTTP proxy in front of Ollama that acts at a chosen call: before it, or between it and its answer."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

CHANGES = (("POST", "/api/copy"), ("DELETE", "/api/delete"), ("POST", "/api/generate"))
"""The calls that change something, by which moments are counted."""


@dataclass
class Moment:
    """The ``number``-th call that changes something (from 1), ``after`` it was done or before; then `act`."""

    number: int
    after: bool
    act: Callable[[], None]
    reached: threading.Event = field(default_factory=threading.Event)


class CuttingProxy:
    """Passes everything on to a port of 127.0.0.1; ``calls`` lists what changed something."""

    def __init__(self, upstream_port: int) -> None:
        self.calls: list[str] = []
        self.moment: Moment | None = None
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                number = proxy._counted(self.command, self.path)
                proxy._at(number, after=False)
                connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=120)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
                with contextlib.closing(connection):
                    try:
                        connection.request(self.command, self.path, body, headers)
                        answer = connection.getresponse()
                        content = answer.read()
                    except OSError:  # nobody is there: what a client would see of it
                        self.close_connection = True
                        return
                proxy._at(number, after=True)
                with contextlib.suppress(OSError):  # who asked may be dead by now
                    self.send_response_only(answer.status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

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
        """Where to ask instead of the server itself."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def cut(self, number: int, act: Callable[[], None], *, after: bool) -> Moment:
        """From now on count anew, and act at that call."""
        with self._lock:
            self.calls = []
            self.moment = Moment(number, after, act)
            return self.moment

    def _counted(self, method: str, path: str) -> int:
        if (method, path) not in CHANGES:
            return 0
        with self._lock:
            self.calls.append(f"{method} {path}")
            return len(self.calls)

    def _at(self, number: int, *, after: bool) -> None:
        moment = self.moment
        if moment is not None and (number, after) == (moment.number, moment.after):
            moment.act()
            moment.reached.set()
