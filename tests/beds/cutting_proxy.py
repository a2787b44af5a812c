"""An HTTP proxy in front of Ollama or Docker that acts at a chosen call: before it, or before its answer."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

OLLAMAS_CHANGES = re.compile(r"POST /api/(copy|generate)|DELETE /api/delete")
DOCKERS_CHANGES = re.compile(r"POST /v[\d.]+/containers/\w+/(update|stop|kill|start)(\?.*)?")
"""The calls that change something, by which moments are counted."""


@dataclass
class Moment:
    """The ``number``-th call that changes something (from 1), ``after`` it was done or before; then `act`."""

    number: int
    after: bool
    act: Callable[[], None]
    reached: threading.Event = field(default_factory=threading.Event)


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a socket file."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        """Connect to the file instead."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixServer(ThreadingHTTPServer):
    """Listens at a socket file, whose clients have no address."""

    address_family = socket.AF_UNIX

    def __init__(self, at: Path, handler: type[BaseHTTPRequestHandler]) -> None:
        self.at = at
        super().__init__(("", 0), handler)

    def server_bind(self) -> None:
        """Bind to the file, without a look at the network's names."""
        self.socket.bind(str(self.at))

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The handler wants an address."""
        return self.socket.accept()[0], ("", 0)


class CuttingProxy:
    """Passes everything on to a port of 127.0.0.1, or from a socket file to another one.

    ``calls`` lists what changed something.
    """

    def __init__(self, upstream: int | Path, at: Path | None = None) -> None:
        self.calls: list[str] = []
        self._changes = OLLAMAS_CHANGES if isinstance(upstream, int) else DOCKERS_CHANGES
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
                connection = (
                    http.client.HTTPConnection("127.0.0.1", upstream, timeout=120)
                    if isinstance(upstream, int)
                    else _UnixConnection(upstream)
                )
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
                    self.send_header("Content-Type", answer.getheader("Content-Type", ""))
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _pass  # noqa: N815  (the library's names)

        self._server = (
            ThreadingHTTPServer(("127.0.0.1", 0), Handler) if at is None else _UnixServer(at, Handler)
        )
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
        if isinstance(self._server, _UnixServer):
            return f"unix://{self._server.at}"
        return f"http://127.0.0.1:{self._server.server_port}"

    def cut(self, number: int, act: Callable[[], None], *, after: bool) -> Moment:
        """From now on count anew, and act at that call."""
        with self._lock:
            self.calls = []
            self.moment = Moment(number, after, act)
            return self.moment

    def _counted(self, method: str, path: str) -> int:
        call = f"{method} {path}"
        if not self._changes.fullmatch(call):
            return 0
        with self._lock:
            self.calls.append(call)
            return len(self.calls)

    def _at(self, number: int, *, after: bool) -> None:
        moment = self.moment
        if moment is not None and (number, after) == (moment.number, moment.after):
            moment.act()
            moment.reached.set()
