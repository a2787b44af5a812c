"""Answers: generate, chat and embed, streamed or whole (facts 1.5, 1.8)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from ollama_guard.testing.fake.handle import Runner
from ollama_guard.testing.fake.http import ApiError, Response, json_response
from ollama_guard.testing.fake.scheduler import Scheduler
from ollama_guard.testing.fake.store import Manifest

_DEFAULT_TOKENS = 32  # an answer's length when the client sets no num_predict
_LONGEST_CONTEXTS = 10  # Ollama ends an answer at ten times num_ctx tokens (facts 8.2)
_EMBEDDING = [0.6, 0.8]  # any unit vector will do


class Generator:
    """Makes answers with the runners of one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.outbound_calls = 0

    def outbound(self) -> Response:
        """A cloud stub was asked: counted, since a guard must never cause it (facts 1.5)."""
        self.outbound_calls += 1
        return json_response({"error": "ollama.com is out of reach of the fake"}, 502)

    def empty(self, sent: dict[str, Any], reason: str, *, chat: bool) -> dict[str, Any]:
        """The one object that answers a load or an unload."""
        return _record(sent, "", chat=chat) | {"done": True, "done_reason": reason}

    async def answer(
        self, sent: dict[str, Any], manifest: Manifest, keep_alive: float | None, *, chat: bool
    ) -> Response:
        """Load if needed, then answer; an empty prompt only loads."""
        options = _options(sent)
        started = time.monotonic()
        runner = await self._scheduler.get(manifest, options, keep_alive)
        if not sent.get("messages" if chat else "prompt"):
            self._scheduler.release(runner)
            return json_response(self.empty(sent, "load", chat=chat))
        lines = self._lines(sent, runner, options, started, chat=chat)
        if sent.get("stream", True):
            first = await anext(lines)
            return Response(stream=_encode(first, lines), content_type="application/x-ndjson")
        whole: list[dict[str, Any]] = [line async for line in lines]
        text = "".join(line["message"]["content"] if chat else line["response"] for line in whole)
        return json_response(whole[-1] | _record(sent, text, chat=chat) | {"done": True})

    async def embed(self, sent: dict[str, Any], manifest: Manifest, keep_alive: float | None) -> Response:
        """Loads the model whatever keep_alive says: there is no unload branch (facts 1.5)."""
        runner = await self._scheduler.get(manifest, _options(sent), keep_alive)
        try:
            async for _ in runner.complete(1):
                pass
        except ApiError as error:
            text = f'do embedding request: Post "http://127.0.0.1:{runner.port}/v1/embeddings": EOF'
            raise ApiError(400, text) from error
        finally:
            self._scheduler.release(runner)
        texts = sent.get("input") or []
        count = len(texts) if isinstance(texts, list) else 1
        return json_response({"model": sent["model"], "embeddings": [_EMBEDDING] * count})

    async def _lines(
        self, sent: dict[str, Any], runner: Runner, options: dict[str, Any], started: float, *, chat: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """The records of an answer, the last one with the figures; gives the runner back at the end."""
        try:
            loaded = time.monotonic()
            wanted = options.get("num_predict", _DEFAULT_TOKENS)
            most = runner.options.context * _LONGEST_CONTEXTS
            count = most if wanted < 0 else min(wanted, most)
            async for piece in runner.complete(count):
                yield _record(sent, piece, chat=chat)
            nanoseconds = int((time.monotonic() - loaded) * 1e9)
            yield _record(sent, "", chat=chat) | {
                "done": True,
                "done_reason": "length" if "num_predict" in options else "stop",
                "total_duration": int((time.monotonic() - started) * 1e9),
                "load_duration": int((loaded - started) * 1e9),
                "prompt_eval_count": 8,
                "prompt_eval_duration": nanoseconds // 10,
                "eval_count": count,
                "eval_duration": nanoseconds,
            }
        finally:
            self._scheduler.release(runner)


async def _encode(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """NDJSON; an error after the first line becomes the last line (facts 1.1)."""
    yield _line(first)
    try:
        async for record in rest:
            yield _line(record)
    except ApiError as error:
        yield _line({"error": str(error)})


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _record(sent: dict[str, Any], text: str, *, chat: bool) -> dict[str, Any]:
    created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}001Z"
    body = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
    return {"model": sent["model"], "created_at": created, **body, "done": False}


def _options(sent: dict[str, Any]) -> dict[str, Any]:
    options = sent.get("options") or {}
    if not isinstance(options, dict) or not isinstance(options.get("num_predict", 0), int):
        raise ApiError(400, "invalid options")
    return options
