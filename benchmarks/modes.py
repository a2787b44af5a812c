"""What may be wrong with `hands`, or with the machine, while the time to an act is measured.

A mode is entered once, and tended right before each trial.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.process import launch
from beds.thrash import Pester, Thrash
from benchmarks.proc import cpu_seconds

# An answer takes a millisecond to come, and a tick near a threshold 20 ms to be the next.
_TAKEN_IN_SECONDS = 0.1
# Below it `hands` were hardly slowed: in three looks they stalled for 16 to 17 % of the time (share of one).
_STALLED_SHARE = 0.05
# Before the first trial they are seen to stall for so long, within as much (seconds).
_STALL_SECONDS, _STALL_WITHIN_SECONDS = 0.2, 30.0
_BURN = [sys.executable, "-I", "-S", "-c", "while True: pass"]


class Mode(Protocol):
    """One state of affairs."""

    def tend(self) -> None:
        """Make sure of it, right before a trial."""

    def lift(self) -> None:
        """Let the guard see the truth for a moment, where it is kept from it."""

    def note(self) -> str:
        """What proves it, once all trials are done."""

    def missing(self) -> str:
        """What is missing to that proof; "" when nothing is."""


class Calm:
    """Nothing is wrong."""

    def tend(self) -> None:
        """Nothing to do."""

    def lift(self) -> None:
        """Nothing is kept from it."""

    def note(self) -> str:
        """Nothing to prove."""
        return ""

    def missing(self) -> str:
        """Nothing to prove."""
        return ""


class Busy(Calm):
    """As many programs as there are cores do nothing but compute."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._began, self._spent = time.monotonic(), self._seconds()

    def note(self) -> str:
        """What they took of the cores."""
        share = (self._seconds() - self._spent) / (time.monotonic() - self._began) / len(self._pids)
        return f"{len(self._pids)} burners took {share:.0%} of the cores"

    def _seconds(self) -> float:
        return sum(map(cpu_seconds, self._pids))


class Blocked(Calm):
    """`/api/ps` is never answered."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._set = False

    def tend(self) -> None:
        """Block it, unless it is."""
        if not self._set:
            self._server.fake.set_fault("hang", path="/api/ps")
            self._set = True

    def lift(self) -> None:
        """Answer what hangs, and let the guard take it in."""
        self._server.fake.clear_faults()
        self._set = False
        time.sleep(_TAKEN_IN_SECONDS)


class Killed(Calm):
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

    def note(self) -> str:
        """How often."""
        return f"killed {self._kills} times"

    def missing(self) -> str:
        """They must have been there to be killed."""
        return "" if self._kills else "hands were never killed"


class Stopped(Calm):
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

    def missing(self) -> str:
        """They must have been there to be stopped."""
        return "" if self._stopped else "hands were never stopped"


class Slowed(Calm):
    """`hands` live in a cgroup under constant reclaim."""

    def __init__(self, guard: Guard, thrash: Thrash) -> None:
        self._guard, self._thrash = guard, thrash
        thrash.catch(guard)
        thrash.wait_stalled(guard, _STALL_SECONDS, _STALL_WITHIN_SECONDS)
        self._began = self._tended = time.monotonic()
        self._stalled = self._seen = thrash.stalled_seconds()

    def tend(self) -> None:
        """Catch those that have been born outside since, and give those that hardly stall less."""
        try:
            inside = self._thrash.holds(self._guard.hands_pid)
        except OSError:
            inside = False
        if not inside:
            self._thrash.catch(self._guard)
        now, stalled = time.monotonic(), self._thrash.stalled_seconds()
        if stalled - self._seen < 2 * _STALLED_SHARE * (now - self._tended):
            self._thrash.squeeze()
        self._tended, self._seen = now, stalled

    def note(self) -> str:
        """The stalls of `hands`, by PSI."""
        return f"stalled {self._share():.0%} of the time (PSI some)"

    def missing(self) -> str:
        """They must have stalled for a part of the time that matters."""
        share = self._share()
        if share >= _STALLED_SHARE:
            return ""
        return f"hands stalled for {share:.1%} of the time, which is less than {_STALLED_SHARE:.0%}"

    def _share(self) -> float:
        return (self._thrash.stalled_seconds() - self._stalled) / (time.monotonic() - self._began)


@contextlib.contextmanager
def entered(name: str, guard: Guard, server: FakeServer) -> Iterator[Mode]:
    """The mode of this name, until the context ends."""
    with contextlib.ExitStack() as stack:
        match name:
            case "cores busy":
                burners = [launch(_BURN) for _ in range(os.cpu_count() or 1)]
                for burner in burners:
                    stack.callback(burner.stop)
                yield Busy([burner.pid for burner in burners])
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
                yield Slowed(guard, thrash)
            case "ps blocked":
                blocked = Blocked(server)
                blocked.tend()
                yield blocked
            case _:
                yield Calm()


NAMES = ("calm", "cores busy", "hands killed", "hands stopped", "hands slowed", "ps blocked")
