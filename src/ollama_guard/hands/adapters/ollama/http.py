"""One HTTP exchange with a total deadline, a body cap and no surprises. Every failure is an `OllamaError`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from typing import Any

import httpcore
import httpx

from ollama_guard import __version__
from ollama_guard.core.events import one_line
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.timed import Meanwhile, TimedTransport

# Bytes; the longest honest answer (/api/tags of 2,000 models) stays below it.
BODY_LIMIT = 1024 * 1024
# Characters of a foreign error text that are worth repeating.
TEXT_LIMIT = 200
_HEADERS = {
    "User-Agent": f"ollama-guard/{__version__}",
    "Accept": "application/json",
    "Content-Type": "application/json",
    # A compressed answer could be far larger than the cap on what came over the wire.
    "Accept-Encoding": "identity",
}
_UNREACHABLE = (
    httpcore.ConnectError,
    httpcore.UnsupportedProtocol,
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
)
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, httpx.StreamError, ValueError)


def exchange(
    base_url: str,
    method: str,
    path: str,
    deadline_seconds: float,
    body: dict[str, Any] | None = None,
    *,
    silent: bool = False,
) -> Any:
    """One request and its answer as JSON, within ``deadline_seconds`` in total; ``silent``: no body is right.

    Raises:
        OllamaError: with the kind refused, timeout, too_large, bad_answer, http_error, not_found or redirect.
    """
    where = f"{method} {path}"
    with _answered(where, base_url, deadline_seconds, body) as response:
        return _judged(where, response.status_code, _read(response, where), silent=silent)


def records(
    base_url: str, path: str, deadline_seconds: float, body: dict[str, Any], meanwhile: Meanwhile
) -> Generator[dict[str, Any], None, None]:
    """The records of a streamed answer as they come, until ``deadline_seconds`` in total are over.

    ``meanwhile`` is called many times a second while they are waited for; what it raises ends the request.
    Close the iterator to hang up.

    Raises:
        OllamaError: as `exchange`; also for an error that comes as the last record (facts 1.1).
    """
    where = f"POST {path}"
    with _answered(where, base_url, deadline_seconds, body, meanwhile) as response:
        if response.status_code != 200:
            _judged(where, response.status_code, _read(response, where))
        held = bytearray()
        for chunk in response.iter_raw():
            *lines, rest = (held + chunk).split(b"\n")
            held = bytearray(rest)
            if max(map(len, (*lines, held))) > BODY_LIMIT:
                raise OllamaError(
                    "too_large", f"{where} was answered with a line of more than {BODY_LIMIT} bytes"
                )
            yield from (_record(where, line) for line in lines if line.strip())
        if held.strip():
            yield _record(where, held)


def _record(where: str, line: bytes | bytearray) -> dict[str, Any]:
    record = _judged(where, 200, line)
    if not isinstance(record, dict):
        raise OllamaError("bad_answer", f"{where}: a record is not an object")
    text = record.get("error")
    if isinstance(text, str):
        raise OllamaError("http_error", f"{where} broke off: {one_line(text, TEXT_LIMIT)}")
    return record


@contextlib.contextmanager
def _answered(
    where: str,
    base_url: str,
    deadline_seconds: float,
    body: dict[str, Any] | None,
    meanwhile: Meanwhile | None = None,
) -> Iterator[httpx.Response]:
    """The response to a request, its body still to be read; whatever fails meanwhile is an `OllamaError`."""
    method, _, path = where.partition(" ")
    content = None if body is None else json.dumps(body).encode("ascii")
    try:
        with (
            TimedTransport(deadline_seconds, meanwhile) as transport,
            httpx.Client(transport=transport, trust_env=False, headers=_HEADERS) as client,
            client.stream(method, base_url.rstrip("/") + path, content=content) as response,
        ):
            yield response
    except httpcore.TimeoutException as problem:
        raise OllamaError("timeout", f"{where} was not answered within {deadline_seconds:.1f} s") from problem
    except _UNREACHABLE as problem:
        raise OllamaError("refused", f"{where}: can't connect: {_said(problem)}") from problem
    except _BROKEN as problem:
        raise OllamaError("bad_answer", f"{where}: the answer broke off: {_said(problem)}") from problem


def _read(response: httpx.Response, where: str) -> bytes:
    status = response.status_code
    if 300 <= status < 400:
        raise OllamaError(
            "redirect", f"{where} was answered with a redirect ({status}), which is not followed"
        )
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > BODY_LIMIT:
            raise OllamaError("too_large", f"{where} was answered with more than {BODY_LIMIT} bytes")
    return bytes(content)


def _judged(where: str, status: int, content: bytes | bytearray, *, silent: bool = False) -> Any:
    if silent and status == 200 and not content:
        return None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as problem:
        if status == 200:
            shown = one_line(content[:60].decode("utf-8", "replace"))
            raise OllamaError("bad_answer", f"{where}: the answer is not JSON: {shown!r}") from problem
        answer = None
    if status == 200:
        return answer
    text = answer.get("error") if isinstance(answer, dict) else None
    shown = one_line(text, TEXT_LIMIT) if isinstance(text, str) else "no reason given"
    raise OllamaError(
        "not_found" if status == 404 else "http_error", f"{where} was answered with {status}: {shown}"
    )


def _said(problem: Exception) -> str:
    return one_line(str(problem) or type(problem).__name__, TEXT_LIMIT)
