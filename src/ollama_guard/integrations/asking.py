"""What the guard says now, for a program with an event loop that must not wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from ollama_guard.integrations.routing import Rung, ladder_of

SOCKET = "/run/ollama-guard/status.sock"
FILE = "/var/lib/ollama-guard/public/status.json"

# Seconds that an answer is used for. A level change has to reach requests within 2 s, of which the guard may
# take one to tell of it; at 0.5 s a storm of requests still costs the guard two answers a second.
CACHE_SECONDS = 0.5
# Seconds that a request waits for the guard, which answers from memory within milliseconds; who waits is a
# person.
WAIT_SECONDS = 0.5
# Seconds for an answer from the socket: nobody waits so long, but an answer in between is still taken.
ANSWER_SECONDS = 2.0
# Seconds that the last answer is believed while no new one comes: a guard busy with a rescue is not away.
BELIEVED_SECONDS = 5.0
# Seconds after which the file tells nothing: a guard at work writes it every 7 s, one that was stopped leaves
# it.
FILE_SECONDS = 15.0
# Seconds since the sentinel's last word after which the guard counts as away, though its other process still
# answers: a calm sentinel speaks every 3 s, and what one that hangs has allowed last would hold for ever.
SILENT_SECONDS = 15.0
# Bytes of an answer: a status with a hundred models has 60 kB.
ANSWER_LIMIT = 1024 * 1024


class GuardView:
    """Asks the guard at most every `CACHE_SECONDS`, one question at a time.

    ``status`` names a socket, or a file that ends in ``.json``. Else OLLAMA_GUARD_STATUS does; else it is the
    guard's socket, and where that is not there or not for us, its public file.
    """

    def __init__(
        self,
        status: str = "",
        *,
        places: tuple[str, str] = (SOCKET, FILE),
        clock: Callable[[], float] = time.monotonic,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._status = status
        self._socket, self._file = places
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._ladder: tuple[Rung, ...] = ()
        self._heard_at = self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._slow = False

    async def ladder(self) -> tuple[Rung, ...]:
        """The newest answer, ``()`` while the guard is away; a guard that hangs is waited for once."""
        asking = self._asking
        if (asking is None or asking.done()) and self._clock() - self._asked_at >= CACHE_SECONDS:
            self._asked_at = self._clock()
            asking = self._asking = asyncio.ensure_future(self._ask())
        if asking is not None and not asking.done() and not self._slow:
            try:
                await asyncio.wait_for(asyncio.shield(asking), self._wait_seconds)
            except TimeoutError:
                self._slow = True
        return self._ladder if self._clock() - self._heard_at <= BELIEVED_SECONDS else ()

    async def _ask(self) -> None:
        try:
            ladder = _heard(await self._document())
        except TimeoutError:
            return  # slow is not away: the last answer holds for a moment
        except (OSError, ValueError, RecursionError):
            ladder = ()
        self._ladder, self._heard_at, self._slow = ladder, self._clock(), False

    async def _document(self) -> object:
        named = self._status or os.environ.get("OLLAMA_GUARD_STATUS", "")
        if not named.endswith(".json"):
            try:
                return await asyncio.wait_for(_from_socket(named or self._socket), ANSWER_SECONDS)
            except (FileNotFoundError, PermissionError):
                if named:
                    raise
        # Without a deadline: where the disk hangs, one thread waits for it, and no second one is started.
        return await asyncio.to_thread(_from_file, named or self._file)


def _heard(document: object) -> tuple[Rung, ...]:
    guard = document.get("guard") if isinstance(document, dict) else None
    age = guard.get("age_seconds") if isinstance(guard, dict) else None
    silent = isinstance(age, (int, float)) and age > SILENT_SECONDS  # older guards don't tell
    return () if silent else ladder_of(document)


async def _from_socket(path: str) -> object:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        # Brief: who holds memory is of no use here, and would be looked for at each question.
        writer.write(b"GET /status?brief HTTP/1.0\r\nHost: ollama-guard\r\n\r\n")
        await writer.drain()
        answer = b""
        while len(answer) <= ANSWER_LIMIT and (part := await reader.read(65536)):
            answer += part
    finally:
        with contextlib.suppress(OSError):
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if len(answer) > ANSWER_LIMIT or head.split(b" ", 2)[1:2] != [b"200"]:
        raise ValueError("the guard has no status now")
    return json.loads(body)


def _from_file(path: str) -> object:
    with Path(path).open("rb") as file:
        if abs(time.time() - os.fstat(file.fileno()).st_mtime) > FILE_SECONDS:
            raise ValueError(f"{path} is old: the guard that wrote it is away")
        return json.loads(file.read(ANSWER_LIMIT))
