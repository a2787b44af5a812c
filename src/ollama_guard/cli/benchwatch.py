"""What `bench` sees of the machine while it waits for Ollama: memory, peaks, the model's own process."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from ollama_guard.core.benchmark import why_stop
from ollama_guard.core.model import HOST, ApiReading, CatalogueEntry, RunnerReading, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.sensors import Sensors
from ollama_guard.sentinel.sensors.files import keyed_kib, slurp

# Seconds between two looks, a millisecond of CPU each. A load takes 1.5 GiB/s at most, and hard is 300 MiB at
# least: so a look comes before what is below hard is gone.
LOOK_SECONDS = 0.1
# Seconds in which a server is found, and a runner's command line, which a helper reads, has come on a busy
# machine: twice as long as `once` looks for them at the most.
FOUND_SECONDS = 5.0
# Seconds that a runner gets to end its own work, and then is watched; and the share of a core by which it
# works for somebody else. Its CPU time comes in ticks of 10 ms: two and a half of them are no rounding.
QUIET_SECONDS, WATCH_SECONDS, IN_USE_SHARE = 0.3, 0.5, 0.05
# Seconds in which a process becomes quiet after its answer was given up: it ends with the next token but one,
# of which slow models make five a second; the looks that show it quiet come on top.
GIVEN_UP_SECONDS = 0.7
# Milliseconds of one wait for a process to end, between two looks.
_SLICE_MS = 20


class MemoryShort(Exception):
    """No more may be asked of this machine now; the sentence says why."""


class Watch:
    """Looks at the machine; enter it for the time of a run.

    ``tick`` is called at every look: to draw, and to raise when somebody wants an end.
    """

    def __init__(
        self, policy: Policy, catalogue: tuple[CatalogueEntry, ...], tick: Callable[[], None]
    ) -> None:
        self._policy, self._catalogue, self._tick = policy, catalogue, tick
        self._sensors = Sensors(policy)
        self._look_at = 0.0
        self._blob: str | None = None
        self._visible = True
        self._peaks: dict[tuple[int, int], int] = {}
        self._host_peak: int | None = None
        self._host_least: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sensors.close()

    def begin(self, blob: str) -> None:
        """Forget the peaks: from now on this model is measured."""
        self._blob, self._peaks, self._host_peak, self._host_least = blob, {}, None, None
        self._see()

    def step(self) -> None:
        """A look, if it is time for one.

        Raises:
            MemoryShort: nothing more may be asked.
        """
        if time.monotonic() < self._look_at:
            return
        self._tick()
        snapshot = self._see()
        others = any(reading.blob != self._blob for reading in snapshot.runners if reading.proven)
        reason = why_stop(self._policy, snapshot.domains, others_loaded=others)
        if reason:
            raise MemoryShort(reason)

    def watch(self, seconds: float) -> None:
        """Let time pass, looking; raises as `step`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()
            time.sleep(LOOK_SECONDS / 4)

    def loaded(self) -> RunnerReading | None:
        """The process of the model, which Ollama says is loaded; None where no such process can be seen.

        On a busy machine it takes a while until server and runner are proven to be Ollama's. One that is not
        found is not waited for again: Ollama runs on another machine then, or in a container of its own.
        """
        end = time.monotonic() + (FOUND_SECONDS if self._visible else 0.0)
        while (found := self.runner()) is None and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        self._visible = found is not None
        return found

    def runner(self) -> RunnerReading | None:
        """The model's process now; one whose command line is not read yet is waited for."""
        end = time.monotonic() + FOUND_SECONDS
        while True:
            snapshot = self._see()
            found = self._found(snapshot)
            unread = any(not reading.proven for reading in snapshot.runners)
            if found is not None or not unread or time.monotonic() > end:
                return found
            time.sleep(LOOK_SECONDS)

    def peak_bytes(self, runner: RunnerReading | None) -> int | None:
        """The most that this process was seen to hold since `begin`."""
        self._see()
        return None if runner is None else self._peaks.get(runner.key)

    def born_peak_bytes(self, runner: RunnerReading | None) -> int | None:
        """The same of one that was born since, by the kernel's own mark: no look is needed to see it."""
        seen = self.peak_bytes(runner)
        if runner is None or seen is None:
            return seen
        return max(seen, keyed_kib(slurp(f"/proc/{runner.pid}/status") or b"", b"VmHWM:") or 0)

    @property
    def host_peak_bytes(self) -> int | None:
        """What of the machine was not available at the most."""
        return self._host_peak

    @property
    def host_least_bytes(self) -> int | None:
        """What was available at the least."""
        return self._host_least

    def in_use(self, runner: RunnerReading | None) -> bool:
        """Whether the process works though nothing was asked here; raises as `step`."""
        self.watch(QUIET_SECONDS)
        before = self._found(self._see())
        self.watch(WATCH_SECONDS)
        after = self._found(self._see())
        if runner is None or before is None or after is None:
            return False
        moved = (after.cpu_seconds or 0.0) - (before.cpu_seconds or 0.0)
        return moved > IN_USE_SHARE * WATCH_SECONDS

    def works_on(self, runner: RunnerReading | None) -> bool:
        """Whether the process still works though what was asked here was given up; only time ends this."""
        seen: list[tuple[float, float]] = []
        end = time.monotonic() + GIVEN_UP_SECONDS + WATCH_SECONDS
        while runner is not None and (now := time.monotonic()) < end:
            found = self._found(self._see())
            if found is None or found.key != runner.key:
                return False
            cpu = found.cpu_seconds or 0.0
            before = [moved_from for at, moved_from in seen if now - at >= WATCH_SECONDS]
            if before and cpu - before[-1] <= IN_USE_SHARE * WATCH_SECONDS:
                return False
            seen.append((now, cpu))
            time.sleep(LOOK_SECONDS)
        return runner is not None

    def gone_within(self, runner: RunnerReading, seconds: float) -> bool:
        """Wait for the process to end, of which the kernel tells at once; nothing but time ends the wait."""
        with suppress(ProcessLookupError, PermissionError):
            descriptor = os.pidfd_open(runner.pid)
            try:
                return self._ended(descriptor, runner, seconds)
            finally:
                os.close(descriptor)
        return self.lives(runner) is False

    def _ended(self, descriptor: int, runner: RunnerReading, seconds: float) -> bool:
        if not self.lives(runner):
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if poll.poll(_SLICE_MS):
                return True
            if time.monotonic() >= self._look_at:
                self._see()
        return False

    def lives(self, runner: RunnerReading) -> bool:
        """Whether this very process is still there."""
        return any(reading.key == runner.key for reading in self._see().runners)

    def _found(self, snapshot: Snapshot) -> RunnerReading | None:
        of_it = [reading for reading in snapshot.runners if reading.proven and reading.blob == self._blob]
        return max(of_it, key=lambda reading: reading.born_at, default=None)

    def _see(self) -> Snapshot:
        """One look, whenever it is."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        snapshot = self._sensors.sense(now, time.time(), ApiReading(), self._catalogue)
        self._look_at = time.monotonic() + LOOK_SECONDS
        for reading in snapshot.runners:
            held = reading.resident_bytes + (reading.swap_bytes or 0)
            self._peaks[reading.key] = max(held, self._peaks.get(reading.key, 0))
        for domain in snapshot.domains:
            if domain.name == HOST and domain.available_bytes is not None and domain.capacity_bytes:
                used = domain.capacity_bytes - domain.available_bytes
                self._host_peak = max(used, self._host_peak or 0)
                least = self._host_least
                self._host_least = (
                    domain.available_bytes if least is None else min(least, domain.available_bytes)
                )
        return snapshot
