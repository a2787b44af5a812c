"""What may be wrong with `hands` while the kill rung is measured.

A mode is entered once, and tended right before each trial.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.thrash import Pester, Thrash


class Mode(Protocol):
    """One state of affairs."""

    def tend(self) -> None:
        """Make sure of it, right before a trial."""

    def note(self) -> str:
        """What proves it, once all trials are done."""


class Calm:
    """Nothing is wrong."""

    def tend(self) -> None:
        """Nothing to do."""

    def note(self) -> str:
        """Nothing to prove."""
        return ""


class Killed:
    """`hands` are killed as soon as they are there."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._kills = 0

    def run(self, over: threading.Event) -> None:
        """Kill until it is over."""
        while not over.wait(0.02):
            with contextlib.suppress(OSError):
                os.kill(self._guard.hands_pid, signal.SIGKILL)
                self._kills += 1

    def tend(self) -> None:
        """The thread does it."""

    def note(self) -> str:
        """How often."""
        return f"killed {self._kills} times"


class Stopped:
    """`hands` are stopped; the guard replaces them after a while, and the next ones are stopped as well."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._stopped: set[int] = set()

    def tend(self) -> None:
        """Stop those that are there now."""
        with contextlib.suppress(OSError):
            pid = self._guard.hands_pid
            os.kill(pid, signal.SIGSTOP)
            self._stopped.add(pid)

    def note(self) -> str:
        """How many."""
        return f"{len(self._stopped)} stopped in turn"


class Slowed:
    """`hands` live in a cgroup under constant reclaim."""

    def __init__(self, guard: Guard, thrash: Thrash) -> None:
        self._guard, self._thrash = guard, thrash
        self._began = time.monotonic()
        self._stalled = thrash.stalled_seconds()

    def tend(self) -> None:
        """Catch those that have been born outside since."""
        try:
            inside = self._thrash.holds(self._guard.hands_pid)
        except OSError:
            inside = False
        if not inside:
            self._thrash.catch(self._guard)

    def note(self) -> str:
        """The stalls of `hands`, by PSI."""
        share = (self._thrash.stalled_seconds() - self._stalled) / (time.monotonic() - self._began)
        return f"stalled {share:.0%} of the time (PSI some)"


@contextlib.contextmanager
def entered(name: str, guard: Guard, server: FakeServer) -> Iterator[Mode]:
    """The mode of this name, until the context ends."""
    with contextlib.ExitStack() as stack:
        match name:
            case "hands killed":
                killed, over = Killed(guard), threading.Event()
                thread = threading.Thread(target=killed.run, args=(over,), daemon=True)
                thread.start()
                stack.callback(thread.join)
                stack.callback(over.set)
                yield killed
            case "hands stopped":
                yield Stopped(guard)
            case "hands slowed":
                thrash = stack.enter_context(Thrash())
                stack.enter_context(Pester(Path(guard.runtime) / "status.sock"))
                thrash.catch(guard)
                yield Slowed(guard, thrash)
            case "ps blocked":
                server.fake.set_fault("hang", path="/api/ps")
                yield Calm()
            case _:
                yield Calm()


NAMES = ("calm", "hands killed", "hands stopped", "hands slowed", "ps blocked")
