"""A Docker's socket that says what a test tells it; for what a real engine can't be brought to say."""

from __future__ import annotations

import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar, Self

Answer = tuple[int, object] | Callable[["Speaking"], None]


class Speaking(BaseHTTPRequestHandler):
    """One connection; ``answers`` are its server's."""

    protocol_version = "HTTP/1.1"
    server: FakeDocker

    def do_GET(self) -> None:
        """Answer as told."""
        self._answer()

    def do_POST(self) -> None:
        """Answer as told; the body does not matter."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def begin(self, status: int) -> None:
        """The head of an answer in chunks."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        """A part of it; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
        asked = f"{self.command} {path}"
        self.server.asked.append(asked)
        answer = self.server.answers.get(asked, (404, {"message": f"no answer to {asked}"}))
        with contextlib.suppress(OSError):
            if callable(answer):
                answer(self)
                return
            status, document = answer
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


class FakeDocker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens at a path while it is entered; ``asked`` are the calls, without version and query."""

    daemon_threads = True
    VERSION: ClassVar[dict[str, str]] = {"ApiVersion": "1.43"}

    def __init__(self, path: Path, **containers: dict[str, Any]) -> None:
        super().__init__(str(path), Speaking)
        self.url = f"unix://{path}"
        self.asked: list[str] = []
        self.connections = 0
        self.answers: dict[str, Answer] = {"GET /version": (200, self.VERSION)}
        for name, inspected in containers.items():
            self.answers[f"GET /containers/{name}/json"] = (200, inspected)
            self.answers[f"GET /containers/{inspected['Id']}/json"] = (200, inspected)
        running = [
            {"Id": one["Id"], "Names": [one["Name"]]}
            for one in containers.values()
            if one["State"].get("Running")
        ]
        self.answers["GET /containers/json"] = (200, running)

    def process_request(self, *connection: Any) -> None:
        """Count it, whether it will say anything or not."""
        self.connections += 1
        super().process_request(*connection)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def container(name: str, pid: int, letter: str = "a", **host: object) -> dict[str, Any]:
    """What `docker inspect` says of a running container, as far as the adapter asks."""
    return {
        "Id": letter * 64,
        "Name": f"/{name}",
        "State": {"Status": "running", "Running": True, "Pid": pid, "StartedAt": "2027-01-15T08:00:00Z"},
        "HostConfig": {"Memory": 0, "MemorySwap": 0, "NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0, **host},
        "Config": {"Labels": {}, "Env": [], "Entrypoint": ["/bin/ollama"]},
        "Mounts": [],
    }
