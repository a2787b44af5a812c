"""What a LiteLLM proxy is put between: models that fail and dawdle on demand, and a guard's face."""

import contextlib
import http.server
import json
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(slots=True)
class Moody:
    """How a model of `StubOllama` answers: with this status, after so many seconds."""

    status: int = 200
    seconds: float = 0.0


class StubOllama:
    """Ollama's chat API over models that fail and dawdle on demand; it remembers who was asked when."""

    def __init__(self) -> None:
        self.moods: dict[str, Moody] = defaultdict(Moody)
        self.asked: list[tuple[float, str]] = []
        self.answering: dict[str, int] = defaultdict(int)
        self.most_answering: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._server = _Threaded(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def forget(self) -> None:
        """Every model is well again, and nobody was asked."""
        with self._lock:
            self.moods.clear()
            self.asked.clear()
            self.most_answering.clear()

    def times_asked(self, model: str) -> int:
        """How often a model was asked since `forget`."""
        with self._lock:
            return sum(1 for _, asked in self.asked if asked == model)

    @contextlib.contextmanager
    def counted(self, model: str) -> Iterator[Moody]:
        """A question while it is answered."""
        with self._lock:
            self.asked.append((time.monotonic(), model))
            self.answering[model] += 1
            self.most_answering[model] = max(self.most_answering[model], self.answering[model])
            mood = self.moods[model]
        try:
            yield mood
        finally:
            with self._lock:
                self.answering[model] -= 1


class FakeGuard:
    """The guard's status socket, with tiers of which one says what is allowed; it can go away, and hang."""

    def __init__(self, path: Path, tiers: Sequence[tuple[str, str]]) -> None:
        self.path = path
        self._tiers = tiers
        self.allowed = [True] * len(tiers)
        self.hanging = threading.Event()
        self.paths: list[str] = []
        self.age_seconds = 0.5
        self._server: _UnixServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._server = _UnixServer(str(self.path), _guards_handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self.hanging.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.path.unlink()

    @property
    def asked(self) -> int:
        """How often."""
        return len(self.paths)

    def allow(self, largest: int) -> None:
        """Allow the tiers up to this place; -1 allows none."""
        self.allowed = [place <= largest for place in range(len(self._tiers))]

    def document(self) -> dict[str, Any]:
        """As the contract has it."""
        allowed = self.allowed
        tiers = [
            {
                "name": name,
                "model": model,
                "allowed": allowed[place],
                "reason": "" if allowed[place] else "memory",
            }
            for place, (name, model) in enumerate(self._tiers)
        ]
        largest = [tier["name"] for tier in tiers if tier["allowed"]]
        return {
            "level": "ok",
            "tiers": tiers,
            "largest_allowed": largest[-1] if largest else None,
            "guard": {"age_seconds": self.age_seconds},
        }


class _Threaded(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, document: object) -> None:
        content = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _handler_of(stub: StubOllama) -> type[_Quiet]:
    class Handler(_Quiet):
        def do_GET(self) -> None:
            self.answer(200, {"version": "0.33.0", "models": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            if self.path != "/api/chat":  # LiteLLM asks /api/show what a model can do
                self.answer(
                    200, {"capabilities": ["completion"], "model_info": {}, "details": {}, "template": ""}
                )
                return
            model = str(body.get("model"))
            with stub.counted(model) as mood, contextlib.suppress(ConnectionError):
                time.sleep(mood.seconds)
                self.answer(mood.status, said_by(model) if mood.status == 200 else {"error": "made to fail"})

    return Handler


def said_by(model: str) -> dict[str, Any]:
    """The last (here: the only) line of Ollama's answer."""
    counts = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_count", "eval_count"), 1)
    message = {"role": "assistant", "content": f"said by {model}"}
    return {"model": model, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": True} | counts


def _guards_handler_of(guard: FakeGuard) -> type[_Quiet]:
    class Handler(_Quiet):
        def do_GET(self) -> None:
            guard.paths.append(self.path)
            while guard.hanging.is_set():
                time.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                self.answer(200, guard.document())

    return Handler
