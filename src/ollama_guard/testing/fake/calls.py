"""A small blocking client for tests: every call has a time-out, an answer is a status and a value."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

_PATIENCE_SECONDS = 30.0  # longer than any blocking that Ollama is known for (facts 1.3)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole: the last JSON value of the body (or its text) and all its lines."""

    status: int
    value: Any
    lines: tuple[Any, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """The text of ``{"error": …}``, empty when there is none."""
        return str(self.value.get("error", "")) if isinstance(self.value, dict) else ""


def call(
    port: int, method: str, path: str, body: Any = None, timeout_seconds: float = _PATIENCE_SECONDS
) -> Answer:
    """One request to 127.0.0.1; raises OSError or http.client.HTTPException as they come."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    lines = tuple(_parse(line) for line in data.splitlines() if line.strip())
    return Answer(response.status, lines[-1] if lines else None, lines, dict(response.headers))


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line.decode("utf-8", "replace")


class Stream:
    """A request in a thread of its own, line by line; `close` leaves in the middle, as a client does."""

    def __init__(self, port: int, path: str, body: Any) -> None:
        self.lines: list[Any] = []
        self.status: int | None = None
        self.failure: BaseException | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._connection.connect()
        self._socket = self._connection.sock
        self._thread = threading.Thread(target=self._run, args=(path, body), daemon=True)
        self._thread.start()

    def _run(self, path: str, body: Any) -> None:
        try:
            self._connection.request("POST", path, json.dumps(body))
            response = self._connection.getresponse()
            self.status = response.status
            for line in response:
                self.lines.append(_parse(line.strip()))
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            self.failure = error  # http.client says AttributeError when it is closed under its feet
        finally:
            self._connection.close()

    @property
    def running(self) -> bool:
        """Whether the answer still goes on."""
        return self._thread.is_alive()

    @property
    def finished(self) -> bool:
        """Whether the answer came to its own end (``done: true``)."""
        last = self.lines[-1] if self.lines else None
        return isinstance(last, dict) and bool(last.get("done"))

    @property
    def error(self) -> str:
        """The text of an ``{"error": …}`` line or answer, empty when there is none."""
        last = self.lines[-1] if self.lines else None
        return str(last.get("error", "")) if isinstance(last, dict) else ""

    def wait_for_lines(self, count: int, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        """Until so many lines have come; TimeoutError when they don't."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.lines) < count:
            if time.monotonic() > deadline or not self.running:
                raise TimeoutError(
                    f"{len(self.lines)} of {count} lines came: {self.lines[-1:]} {self.failure!r}"
                )
            time.sleep(0.005)

    def join(self, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        """Until the answer has ended; TimeoutError when it doesn't."""
        self._thread.join(timeout_seconds)
        if self.running:
            raise TimeoutError(f"the answer still goes on after {timeout_seconds} s")

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):  # it may have ended already
            self._socket.shutdown(2)
        self._thread.join(5)
