"""Lanes: small groups of threads that carry slow calls, so that no call can hold up another lane.

A job has a deadline. The call itself is expected to keep it; if it doesn't (a name server that hangs,
a disk that never answers), its thread is given up and replaced, the job's result is "overdue", and a
late answer is thrown away. Results go to the `Mailbox`, whose owner (the main loop) runs them: no other
thread ever touches the main loop's state.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ollama_guard.errors import GuardError

# Seconds past its deadline after which a call is held to have lost the way: calls end within
# milliseconds of their own deadline, so this is for a loaded machine only.
GRACE_SECONDS = 1.0
# Threads given up at a time, per lane. A thread stuck in the kernel can't be ended; more of them
# would only be stuck in the same place.
STUCK_LIMIT = 4
# Jobs that wait in one lane; more means that nothing is getting done.
WAITING_LIMIT = 64

Clock = Callable[[], float]


def boottime() -> float:
    """CLOCK_BOOTTIME seconds, the time base of both processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Overdue(GuardError):
    """A job was given up: its thread did not come back in time."""


class NeverStarted(Overdue):
    """A job whose deadline passed before it had a thread: nothing of it was done."""


class Broken(GuardError):
    """A job ended in an exception that nobody expected; the message carries the traceback."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job: ``value``, or ``error``."""

    value: object = None
    error: GuardError | None = None


class Mailbox:
    """Calls to be made by the main loop, put in by any thread; wakes the loop through a descriptor."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable when calls wait."""
        return self._wake

    def put(self, call: Callable[[], None]) -> None:
        """Have the main loop make this call soon; never blocks."""
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Make the calls that wait; main loop only."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for _ in range(len(self._calls)):
            self._calls.popleft()()


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], object]
    deadline_at: float
    then: Callable[[Result], None]
    settled: bool = False


class Lane:
    """``workers`` daemon threads and one queue; `submit` and `check` are the main loop's."""

    def __init__(self, name: str, workers: int, mailbox: Mailbox, clock: Clock = boottime) -> None:
        self.name = name
        self._mailbox = mailbox
        self._clock = clock
        self._ready = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: dict[threading.Thread, _Job | None] = {}
        self._stuck: set[threading.Thread] = set()
        for _ in range(workers):
            self._start_worker()

    @property
    def stuck(self) -> int:
        """Threads that were given up and have not come back."""
        with self._ready:
            return len(self._stuck)

    def submit(self, work: Callable[[], object], deadline_at: float, then: Callable[[Result], None]) -> None:
        """Run ``work`` in a thread; ``then`` is called by the main loop, exactly once.

        ``work`` may raise `GuardError`; ``deadline_at`` is in the lane's clock and counts waiting too.
        """
        job = _Job(work, deadline_at, then)
        with self._ready:
            if len(self._waiting) < WAITING_LIMIT:
                self._waiting.append(job)
                self._ready.notify()
                return
        self._settle(job, Result(error=NeverStarted(f"{WAITING_LIMIT} jobs wait in the lane {self.name}")))

    def check(self) -> None:
        """Give up what is overdue and replace its thread."""
        now = self._clock()
        with self._ready:
            late = [job for job in self._waiting if now > job.deadline_at + GRACE_SECONDS]
            for job in late:
                self._waiting.remove(job)
            started = []
            lost = [
                (thread, job)
                for thread, job in self._running.items()
                if job is not None and not job.settled and now > job.deadline_at + GRACE_SECONDS
            ]
            for thread, job in lost:
                if len(self._stuck) < STUCK_LIMIT:
                    del self._running[thread]
                    self._stuck.add(thread)
                    self._start_worker()
                started.append(job)
        for job in late:
            self._settle(job, Result(error=self._never_started()))
        for job in started:
            self._settle(job, Result(error=Overdue(f"given up: the lane {self.name} had no answer in time")))

    def _never_started(self) -> NeverStarted:
        return NeverStarted(f"its deadline passed while it waited in the lane {self.name}")

    def _start_worker(self) -> None:
        thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._running[thread] = None
        thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._ready:
                if me in self._stuck:
                    self._stuck.discard(me)
                    return
                self._running[me] = None
                while not self._waiting:
                    self._ready.wait()
                job = self._waiting.popleft()
                self._running[me] = job
            self._settle(job, self._result(job))

    def _result(self, job: _Job) -> Result:
        if self._clock() > job.deadline_at:
            return Result(error=self._never_started())
        try:
            return Result(value=job.work())
        except GuardError as problem:
            return Result(error=problem)
        except Exception:  # noqa: BLE001  (the one broad one here: a lane must outlive any job)
            return Result(error=Broken(traceback.format_exc(limit=-6)))

    def _settle(self, job: _Job, result: Result) -> None:
        """Deliver the first result of a job; a later one (of a thread that was given up) is dropped."""
        with self._ready:
            if job.settled:
                return
            job.settled = True
        self._mailbox.put(lambda: job.then(result))
