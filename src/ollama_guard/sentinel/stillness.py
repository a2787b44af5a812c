"""Where the time went when the guard itself stood still: kept up on each round, told with `guard.stalled`.

Without it nobody can tell a machine that was suspended from one without a free processor, or from a file
below /proc that made its reader wait.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ollama_guard.core.events import Event
from ollama_guard.core.units import seconds_text
from ollama_guard.sentinel import clock

ASLEEP = "asleep"
"""The part of a round in which nothing is due, and what woke it is taken in."""


@dataclass(frozen=True, slots=True)
class _Account:
    """What the kernel has written down for this process so far (seconds, major faults)."""

    cpu_seconds: float
    queued_seconds: float | None
    major_faults: int


class Stillness:
    """Watches the parts of each round between two ticks."""

    def __init__(self, now: Callable[[], float] = clock.boottime) -> None:
        self._now = now
        # Of the thread that guards, which is the only one.
        try:
            self._schedstat: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._schedstat = None
        self._before = self._read()
        self._longest = (0.0, ASLEEP)

    def timed(self, name: str, part: Callable[[], object], planned_seconds: float = 0.0) -> None:
        """Do a part of a round; only what it takes beyond its plan counts. Raises what the part raises."""
        began = self._now()
        try:
            part()
        finally:
            over = self._now() - began - max(planned_seconds, 0.0)
            self._longest = max(self._longest, (over, name))

    def told(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """A tick's events, with the reason why it came so late where it did; the next round begins."""
        before, self._before = self._before, self._read()
        longest, self._longest = self._longest, (0.0, ASLEEP)
        return tuple(
            _explained(event, before, self._before, longest) if event.name == "guard.stalled" else event
            for event in events
        )

    def _read(self) -> _Account:
        used = resource.getrusage(resource.RUSAGE_THREAD)
        queued = None
        if self._schedstat is not None:
            with suppress(OSError, ValueError, IndexError):
                # Nanoseconds on a processor and waiting for one (Documentation/scheduler/sched-stats.rst).
                queued = int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9
        return _Account(used.ru_utime + used.ru_stime, queued, used.ru_majflt)


def _explained(event: Event, before: _Account, after: _Account, longest: tuple[float, str]) -> Event:
    over, name = longest
    queued, waited = None, ""
    if before.queued_seconds is not None and after.queued_seconds is not None:
        queued = round(after.queued_seconds - before.queued_seconds, 3)
        waited = f"; {seconds_text(queued)} of it waiting for a processor"
    fields = {
        "queued_seconds": queued,
        "cpu_seconds": round(after.cpu_seconds - before.cpu_seconds, 3),
        "major_faults": after.major_faults - before.major_faults,
        "longest_part": name,
        "longest_seconds": round(over, 3),
        **event.fields,
    }
    return Event("guard.stalled", f"{event.message}{waited}", event.priority, fields)
