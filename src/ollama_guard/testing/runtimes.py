"""A `RuntimePort` in memory, with faults on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeReading, RuntimeState
from ollama_guard.errors import RuntimeFailed


class FakeRuntime:
    """Holds readings by name; ``asked`` is every call in order, as (verb, name).

    ``faults`` maps a verb (``find read stop start limit unlimit``) to what it raises, ``gates`` to an event
    that it waits for. ``on_stop`` and ``on_start`` are what its process does then; the latter tells the PID.
    """

    def __init__(self, readings: Iterable[RuntimeReading] = ()) -> None:
        self.readings = {reading.name: reading for reading in readings}
        self.asked: list[tuple[str, str]] = []
        self.faults: dict[str, RuntimeFailed] = {}
        self.gates: dict[str, threading.Event] = {}
        self.left_out: tuple[str, ...] = ()
        self.limits: dict[str, Limits] = {}
        self.on_stop: Callable[[], None] = lambda: None
        self.on_start: Callable[[], int] = lambda: 4242

    def find(self, server: ServerReading, deadline_seconds: float) -> RuntimeReading | None:
        """The reading whose server it is."""
        self._ask("find", str(server.pid), deadline_seconds)
        running = (reading for reading in self.readings.values() if reading.server_pid == server.pid)
        return next(running, None)

    def read(self, name: str, deadline_seconds: float) -> RuntimeReading:
        """As it is held."""
        self._ask("read", name, deadline_seconds)
        return self._of(name)

    def stop(self, name: str, deadline_seconds: float) -> None:
        """Stopped at once, unless it may not be."""
        self._ask("stop", name, deadline_seconds)
        reading = self._of(name)
        if "stop" not in reading.verbs:
            raise RuntimeFailed("refused", reading.cannot)
        self.on_stop()
        self.readings[name] = replace(reading, state=RuntimeState.STOPPED, server_pid=None)

    def start(self, name: str, deadline_seconds: float) -> None:
        """Runs at once."""
        self._ask("start", name, deadline_seconds)
        reading = self._of(name)
        if reading.state is not RuntimeState.RUNNING:
            pid = self.on_start()
            self.readings[name] = replace(reading, state=RuntimeState.RUNNING, server_pid=pid)

    def limit(self, name: str, limits: Limits, deadline_seconds: float) -> tuple[str, ...]:
        """Kept in ``limits``; says what a test put into ``left_out``."""
        self._ask("limit", name, deadline_seconds)
        self._of(name)
        self.limits[name] = limits
        return self.left_out

    def unlimit(self, name: str, deadline_seconds: float) -> None:
        """No limit any more."""
        self._ask("unlimit", name, deadline_seconds)
        self._of(name)
        self.limits.pop(name, None)

    def _ask(self, verb: str, name: str, deadline_seconds: float) -> None:
        self.asked.append((verb, name))
        if deadline_seconds <= 0:
            raise RuntimeFailed("hanging", f"no time was left to {verb} {name}")
        if verb in self.gates:
            self.gates[verb].wait()
        if verb in self.faults:
            raise self.faults[verb]

    def _of(self, name: str) -> RuntimeReading:
        if name not in self.readings:
            raise RuntimeFailed("gone", f"there is no {name}")
        return self.readings[name]
