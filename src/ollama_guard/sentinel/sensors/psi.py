"""Pressure stall information: its numbers, and triggers that wake the loop.

A trigger's descriptor is readable (EPOLLPRI) when memory stalls; once its cgroup is gone it reports
EPOLLERR for ever, so it is closed at the first one and opened again with back-off.
"""

from __future__ import annotations

import os
import re
import select
from contextlib import suppress
from dataclasses import dataclass

from ollama_guard.sentinel.sensors.files import ABSURD, why

_LINE = re.compile(
    rb"^(some|full) avg10=(\d{1,3}\.\d\d) avg60=\d+\.\d\d avg300=\d+\.\d\d total=(\d{1,20})$", re.MULTILINE
)

# (stall, window) in microseconds, the fastest first. 7.5-8 % of a window stalled is real shortage, not noise.
# Windows below 2 s need CAP_SYS_RESOURCE, and so do those that are no multiple of 2 s.
WINDOWS = ((40_000, 500_000), (75_000, 1_000_000), (150_000, 2_000_000))
_EVENTS = select.EPOLLPRI | select.EPOLLERR

# Seconds until a lost trigger is opened again; doubles up to the last: a vanished cgroup costs nothing.
_FIRST_BACKOFF_SECONDS = 1.0
_LAST_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Psi:
    """Memory pressure: percentages over 10 s, and total stalled microseconds. None where not printed."""

    some_avg10: float | None = None
    full_avg10: float | None = None
    some_total: int | None = None
    full_total: int | None = None


def parse_psi(data: bytes) -> Psi:
    """A ``memory.pressure`` file; whatever is missing, cut off or above 100 % is None."""
    found: dict[bytes, tuple[float | None, int | None]] = {}
    for kind, avg10, total in _LINE.findall(data):
        percent, stalled = float(avg10), int(total)
        found[kind] = (percent if percent <= 100.0 else None, stalled if stalled < ABSURD else None)
    some, full = found.get(b"some", (None, None)), found.get(b"full", (None, None))
    return Psi(some[0], full[0], some[1], full[1])


@dataclass(frozen=True, slots=True)
class Opened:
    """A registered trigger: its descriptor (-1 if there is none), its window, and why there is none."""

    fd: int
    window_seconds: float = 0.0
    reason: str = ""


def open_trigger(path: str) -> Opened:
    """Register a ``some`` trigger on a PSI file with the shortest window that the kernel grants."""
    problem = "no window was accepted"
    for stall, window in WINDOWS:
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            # The trailing NUL: /proc/pressure takes the last byte for a line end and drops it.
            os.write(fd, f"some {stall} {window}\0".encode())
            _must_be_pollable(fd)
        except OSError as error:
            problem = why(error)
            if fd >= 0:
                os.close(fd)
            continue
        return Opened(fd, window / 1e6)
    return Opened(-1, reason=f"timer only: {path}: {problem}")


def _must_be_pollable(fd: int) -> None:
    with select.epoll() as trial:
        trial.register(fd, _EVENTS)


class Trigger:
    """One PSI trigger that opens itself again, with back-off, after its file went away."""

    EVENTS = _EVENTS

    def __init__(self, path: str) -> None:
        self.path = path
        self.opened = Opened(-1, reason=f"timer only: {path}: not tried yet")
        self._due_at = 0.0
        self._backoff_seconds = _FIRST_BACKOFF_SECONDS

    @property
    def fd(self) -> int:
        """The descriptor to wait on for `EVENTS`, or -1."""
        return self.opened.fd

    def tend(self, now: float) -> bool:
        """Open the trigger if it is due; True when there is a new descriptor to wait on."""
        if self.opened.fd >= 0 or now < self._due_at:
            return False
        self.opened = open_trigger(self.path)
        if self.opened.fd < 0:
            self._delay(now)
        return self.opened.fd >= 0

    def on_events(self, events: int, now: float) -> bool:
        """Take epoll's word: True is pressure, False is a lost trigger, which is closed until it is due."""
        if not events & (select.EPOLLERR | select.EPOLLHUP):
            self._backoff_seconds = _FIRST_BACKOFF_SECONDS
            return True
        self.close()
        self.opened = Opened(-1, reason=f"timer only: {self.path}: its cgroup went away")
        self._delay(now)
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        if self.opened.fd >= 0:
            with suppress(OSError):
                os.close(self.opened.fd)
        self.opened = Opened(-1, reason=f"timer only: {self.path}: closed")

    def _delay(self, now: float) -> None:
        self._due_at = now + self._backoff_seconds
        self._backoff_seconds = min(2 * self._backoff_seconds, _LAST_BACKOFF_SECONDS)
