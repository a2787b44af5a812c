"""Clients of an Ollama server, as a home has them: one that reads a long answer, one that never gives up."""

import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

from beds.http import HttpFailure, connect, request

PROMPT = "Once upon a time there was a"
SAMPLE_TOKENS = 32
SPEED_UP = 1.5
"""A machine that was busy while the speed was measured may be less so while it counts."""
STEADY_SPEED_UP = 1.2
"""The same for an answer that has its own pace: the fake's, or one under a quota of CPU time."""


@dataclass(slots=True)
class Answer:
    """What a streaming client has seen so far; times are time.monotonic() seconds."""

    began: float = 0.0
    chunk_times: list[float] = field(default_factory=list)
    status: int | None = None
    error: str | None = None
    done_reason: str | None = None
    ended: float | None = None

    @property
    def chunks(self) -> int:
        """Pieces of the answer that arrived."""
        return len(self.chunk_times)

    @property
    def finished(self) -> bool:
        """Whether the server said `done` itself: an answer that was cut has no such line."""
        return self.done_reason is not None and self.error is None

    def summary(self) -> str:
        """How it stands, for a failing test's message: a runner is judged by what it does for its answer."""
        silence = time.monotonic() - self.chunk_times[-1] if self.chunk_times else 0.0
        end = self.error or self.done_reason or f"going on, silent for {silence:.1f} s"
        longest = self.longest_silence_seconds
        return f"{self.chunks} pieces, {end}, longest silence {longest:.1f} s"

    @property
    def longest_silence_seconds(self) -> float:
        """The longest wait between two pieces."""
        pairs = zip(self.chunk_times, self.chunk_times[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=0.0)


class StreamingClient:
    """A thread that asks for one answer of exactly `tokens` tokens and notes each piece of it.

    Enter it to begin; leaving closes the connection, which makes the server stop generating.
    """

    def __init__(self, url: str, model: str, tokens: int, *, silence_seconds: float = 120.0) -> None:
        self.answer = Answer()
        self._payload = {
            "model": model,
            "prompt": PROMPT,
            "raw": True,
            "stream": True,
            "options": {"num_predict": tokens, "temperature": 1.0, "seed": 7},
        }
        self._connection = connect(url, silence_seconds)
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stream {model}", daemon=True)

    @classmethod
    def lasting(cls, url: str, model: str, seconds: float, *, speed_up: float = SPEED_UP) -> Self:
        """A client whose answer takes `seconds` or more, after the speed of a short answer measured now."""
        payload = {"model": model, "prompt": PROMPT, "raw": True, "stream": False}
        short = request(
            url, "POST", "/api/generate", payload | {"options": {"num_predict": SAMPLE_TOKENS}}, timeout=300
        )
        speed = short["eval_count"] / (short["eval_duration"] / 1e9)
        return cls(url, model, max(16, round(speed_up * speed * seconds)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_streaming(self, timeout_seconds: float = 120.0) -> bool:
        """Wait for the first piece; False when it ended or nothing came in time."""
        self._first.wait(timeout_seconds)
        return self.answer.chunks > 0

    def wait(self, timeout_seconds: float) -> Answer:
        """Wait for the end of the answer and return what was seen."""
        self._thread.join(timeout_seconds)
        return self.answer

    def close(self) -> None:
        """Hang up, as a user who closes the window does."""
        if self._connection.sock is not None:
            # shutdown wakes the thread that reads; close alone would leave it waiting.
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()

    def _run(self) -> None:
        self.answer.began = time.monotonic()
        try:
            self._ask()
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as problem:
            self.answer.error = f"{type(problem).__name__}: {problem}"
        finally:
            self.answer.ended = time.monotonic()
            self._first.set()

    def _ask(self) -> None:
        body = json.dumps(self._payload)
        self._connection.request("POST", "/api/generate", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        self.answer.status = response.status
        if response.status != http.client.OK:
            self.answer.error = response.read().decode(errors="replace")
            return
        while line := response.readline():
            self._note(json.loads(line))

    def _note(self, piece: dict[str, Any]) -> None:
        if "error" in piece:
            self.answer.error = str(piece["error"])
        elif piece.get("done"):
            self.answer.done_reason = piece.get("done_reason", "")
        else:
            self.answer.chunk_times.append(time.monotonic())
            self._first.set()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a `RetryClient`: when, the HTTP status (None: no answer), and what was said."""

    at: float
    status: int | None
    text: str


class RetryClient:
    """A thread that asks for a model every `interval_seconds` until told to stop, whatever it hears."""

    def __init__(self, url: str, model: str, *, interval_seconds: float = 1.0, timeout: float = 60.0) -> None:
        self.attempts: list[Attempt] = []
        self._url, self._model = url, model
        self._interval_seconds, self._timeout = interval_seconds, timeout
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"retry {model}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Attempt]:
        """Stop asking (an attempt under way is abandoned with the thread); return all attempts."""
        self._stop.set()
        self._thread.join(self._interval_seconds + 1)
        return list(self.attempts)

    def statuses(self) -> list[int | None]:
        """The statuses heard so far, in order."""
        return [attempt.status for attempt in self.attempts]

    def _run(self) -> None:
        while not self._stop.is_set():
            at = time.monotonic()
            status, text = self._try()
            self.attempts.append(Attempt(at, status, text))
            self._stop.wait(max(0.0, at + self._interval_seconds - time.monotonic()))

    def _try(self) -> tuple[int | None, str]:
        payload = {"model": self._model, "prompt": PROMPT, "stream": False, "options": {"num_predict": 1}}
        try:
            request(self._url, "POST", "/api/generate", payload, timeout=self._timeout)
        except HttpFailure as failure:
            return failure.status, failure.text
        except (OSError, http.client.HTTPException, ValueError) as problem:
            return None, f"{type(problem).__name__}: {problem}"
        return http.client.OK, ""
