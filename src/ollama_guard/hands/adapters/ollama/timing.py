"""Ollama asked as a client asks it, with the times that the client sees: for `bench`.

Every call has a total deadline, and a ``meanwhile`` that is called while it waits and may end it by raising.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama.http import records
from ollama_guard.hands.adapters.timed import Meanwhile

# Seconds that a model which was loaded here stays if this process is killed: Ollama's own default, whatever
# the server's is, since one that keeps models for ever would keep this one. Said at the load alone, where it
# sticks: a later question shall not overrule what another client has said meanwhile (facts 1.6).
KEEP_ALIVE_SECONDS = 300
# Pieces for each token that was asked for, beyond which a server is hung up on: Ollama sends one at most.
PIECES_PER_TOKEN = 2
# When one token has come more than 30 times in a row, as small models do, Ollama ends the answer without a
# last record (llm/server.go, "token repeat limit reached"). A runner that dies is told as an error instead.
REPEATED, REPEATED_PIECES = "repeat", 30
# The same words each time, as far as a model can: what is compared is the machine.
_OPTIONS = {"temperature": 0, "seed": 42}


@dataclass(frozen=True, slots=True)
class Spoken:
    """One answer as it came; seconds from the request on.

    ``done_reason`` is None where it was cut at the deadline, "length" also where it went on and on, "repeat"
    where Ollama ended it for that.

    ``tokens``, ``tokens_per_second`` and ``prompt_tokens`` are Ollama's own count, None if it told none.
    """

    total_seconds: float
    first_token_seconds: float | None
    pieces: int
    pieces_per_second: float | None
    done_reason: str | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    prompt_tokens: int | None = None


class Client:
    """Somebody who asks the server at ``url``; each call within ``deadline_seconds`` in total."""

    def __init__(self, url: str, deadline_seconds: float, meanwhile: Meanwhile) -> None:
        self._url, self._deadline_seconds, self._meanwhile = url, deadline_seconds, meanwhile

    def load(self, model: str, *, embeds: bool) -> float:
        """Load a model that is not loaded; the seconds until Ollama said that it is.

        Raises:
            OllamaError: it can't be loaded, or not in time. Hanging up ends the load (facts 2.1).
        """
        body = {"model": model, "keep_alive": KEEP_ALIVE_SECONDS}
        path = "/api/embed" if embeds else "/api/generate"  # which loads without a prompt, the other never
        began = time.monotonic()
        for _ in self._records(path, body | ({"input": "Hi"} if embeds else {"stream": False})):
            pass
        return time.monotonic() - began

    def answer(self, model: str, text: str, tokens_most: int) -> Spoken:
        """Ask, and read the answer as it streams; a server that goes on and on is hung up on.

        Raises:
            OllamaError: it failed, or not one token came in time.
        """
        body = {"model": model, "prompt": text, "options": {"num_predict": tokens_most, **_OPTIONS}}
        return self._listened("/api/generate", body, PIECES_PER_TOKEN * tokens_most)

    def embed(self, model: str, text: str) -> Spoken:
        """Have a text embedded, of which only the whole time is known.

        Raises:
            OllamaError: it failed, or not in time.
        """
        began = time.monotonic()
        heard = deque(self._records("/api/embed", {"model": model, "input": text}), maxlen=1)
        counted = _count(heard[0].get("prompt_eval_count")) if heard else None
        return Spoken(time.monotonic() - began, None, 0, None, "stop", prompt_tokens=counted)

    def _records(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        return records(self._url, path, self._deadline_seconds, body, self._meanwhile)

    def _listened(self, path: str, body: dict[str, Any], pieces_most: int) -> Spoken:
        began = time.monotonic()
        heard = _Heard()
        last: dict[str, Any] = {}
        late = False
        try:
            with contextlib.closing(self._records(path, body)) as coming:
                for last in coming:
                    if last.get("response") or last.get("thinking"):
                        heard.count(time.monotonic())
                    if heard.pieces > pieces_most:
                        break
        except OllamaError as problem:
            if problem.kind != "timeout" or not heard.pieces:
                raise
            late = True
        spoken = Spoken(
            total_seconds=time.monotonic() - began,
            first_token_seconds=heard.first_at - began if heard.pieces else None,
            pieces=heard.pieces,
            pieces_per_second=heard.per_second,
        )
        if heard.pieces > pieces_most:
            return replace(spoken, done_reason="length")
        if late:
            return spoken
        if last.get("done") is True:
            return _told(spoken, last)
        if heard.pieces < REPEATED_PIECES:
            raise OllamaError("bad_answer", f"POST {path}: the answer ended before it was done")
        return replace(spoken, done_reason=REPEATED)


@dataclass(slots=True)
class _Heard:
    """The pieces of an answer: how many, and when the first and the last came."""

    pieces: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def count(self, at: float) -> None:
        """One more."""
        self.first_at = self.first_at if self.pieces else at
        self.last_at = at
        self.pieces += 1

    @property
    def per_second(self) -> float | None:
        """After the first; None where there is no time between them."""
        lasted = self.last_at - self.first_at
        return (self.pieces - 1) / lasted if lasted > 0 else None


def _told(spoken: Spoken, last: dict[str, Any]) -> Spoken:
    """The answer with the figures of its last record (nanoseconds there)."""
    tokens, nanoseconds = _count(last.get("eval_count")), _count(last.get("eval_duration"))
    reason = last.get("done_reason")
    return Spoken(
        spoken.total_seconds,
        spoken.first_token_seconds,
        spoken.pieces,
        spoken.pieces_per_second,
        done_reason=reason if isinstance(reason, str) else "",
        tokens=tokens,
        tokens_per_second=tokens / (nanoseconds / 1e9) if tokens and nanoseconds else None,
        prompt_tokens=_count(last.get("prompt_eval_count")),
    )


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**62 else None
