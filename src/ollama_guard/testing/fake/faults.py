"""Faults on demand, set through a control port that is not Ollama's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ollama_guard.testing.fake.http import Request, Response, json_response

_HUGE_BYTES = 10 * 1000 * 1000
_HTML = b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"
_GARBAGE = bytes(range(256)) * 4


class Kind(StrEnum):
    """What can go wrong; how each behaves is in docs/fake-ollama.md."""

    HANG = "hang"
    DRIP = "drip"
    GARBAGE = "garbage"
    HTML = "html"
    REDIRECT = "redirect"
    HTTP_500 = "http_500"
    HUGE = "huge"
    BLOCK_PS = "block_ps"
    BLOCK_PS_ON_UNLOAD = "block_ps_on_unload"
    SLOW_TEARDOWN = "slow_teardown"
    IGNORE_UNLOAD = "ignore_unload"
    LOAD_FAILURE = "load_failure"
    CRASH_SERVER = "crash_server"
    CRASH_RUNNER = "crash_runner"
    GROW = "grow"


@dataclass(slots=True)
class Fault:
    """One fault. ``path`` limits it to one route (None: all); ``over`` is set when it ends."""

    kind: Kind
    path: str | None = None
    seconds: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._active: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put in force, for ``seconds`` where the kind is a state of that length."""
        self._active.append(fault)
        lasting = fault.kind not in {Kind.BLOCK_PS_ON_UNLOAD, Kind.SLOW_TEARDOWN, Kind.LOAD_FAILURE}
        if lasting and fault.seconds is not None:
            asyncio.get_running_loop().call_later(fault.seconds, self.remove, fault)

    def remove(self, fault: Fault) -> None:
        """End one fault and wake what it held up."""
        fault.over.set()
        if fault in self._active:
            self._active.remove(fault)

    def clear(self) -> None:
        """End them all."""
        for fault in list(self._active):
            self.remove(fault)

    def active(self, kind: Kind) -> Fault | None:
        """The first fault of this kind that is in force."""
        return next((fault for fault in self._active if fault.kind is kind), None)

    def take(self, kind: Kind, model: str) -> Fault | None:
        """A fault of this kind that is meant for this model (or any); it is used up."""
        for fault in self._active:
            if fault.kind is kind and fault.options.get("model", model) == model:
                self.remove(fault)
                return fault
        return None

    async def pause(self, kind: Kind) -> None:
        """Wait as long as a fault of this kind says, or until it is cleared."""
        fault = self.active(kind)
        if fault is not None:
            await wait_for_event(fault.over, fault.seconds)

    async def before(self, request: Request) -> Response | None:
        """What the API answers instead of the truth; a hung request goes on when the hang is over."""
        for fault in list(self._active):
            if fault.path not in {None, request.path}:
                continue
            if fault.kind is Kind.HANG:
                await fault.over.wait()
            elif (answer := _spoilt(fault.kind)) is not None:
                return answer
        return None

    def drips(self, request: Request) -> bool:
        """Whether the answer goes out one byte a second."""
        fault = self.active(Kind.DRIP)
        return fault is not None and fault.path in {None, request.path}


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, at most ``seconds`` (None: without limit)."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _spoilt(kind: Kind) -> Response | None:
    match kind:
        case Kind.GARBAGE:
            return Response(raw=_GARBAGE)
        case Kind.HTML:
            return Response(200, _HTML, "text/html")
        case Kind.REDIRECT:
            return Response(302, headers={"Location": "http://127.0.0.1:9/elsewhere"})
        case Kind.HTTP_500:
            return json_response({"error": "internal error"}, 500)
        case Kind.HUGE:
            return Response(200, b'{"models":[],"padding":"' + b"x" * _HUGE_BYTES + b'"}')
        case _:
            return None
