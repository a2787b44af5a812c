"""Keeps the footprint ledger: takes the sentinel's lessons in, tells it the rows, writes them to the disk.

The ledger in memory is what counts; the file follows it, at most once a minute (SD cards wear out), soon
after a load, and at the end. A disk that is full, read-only or hanging costs one warning, never the ledger.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger, Lesson
from ollama_guard.core.ledger import rows_of, taught, watched_seconds
from ollama_guard.errors import GuardError, NewerLedger
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, Result
from ollama_guard.hands.watch import Send
from ollama_guard.store.footprints import FootprintStore, Loaded
from ollama_guard.wire import FootprintsObserved

# Seconds between two writes, and from a load's end to the write that it brings forward.
SAVE_SECONDS = 60.0
SAVE_SOON_SECONDS = 2.0
# Seconds for one call on the file; a good disk takes milliseconds.
PATIENCE_SECONDS = 10.0
# Seconds until the next try when the disk failed, doubling.
BACKOFF_FIRST_SECONDS = 10.0
BACKOFF_LONGEST_SECONDS = 300.0
# Without any news the file is written this often (seconds), for the time that the ledger has been kept.
SAVE_ANYWAY_SECONDS = 3600.0
# Rows in one message and seconds between two: the sentinel takes about 2 ms to read so many.
ROWS_AT_ONCE = 32
TELL_SECONDS = 0.05
# Lessons kept for the rows of a file that could not be read yet.
EARLY_LIMIT = 1000
# Seconds that the end waits for the last write; the sentinel gives hands half a second in all.
LAST_WRITE_SECONDS = 0.3


class LedgerKeeper:
    """All but the calls on the file runs in the main loop."""

    def __init__(self, store: FootprintStore, mailbox: Mailbox, send: Send, clock: Clock) -> None:
        self._store = store
        self._send = send
        self._clock = clock
        self._lane = Lane("ledger", 1, mailbox, clock)
        self._started_at = self._saved_at = self._tell_at = clock()
        self.ledger = Ledger(at=self._started_at)
        self._early: deque[tuple[tuple[Lesson, ...], float, float]] = deque(maxlen=EARLY_LIMIT)
        self._loaded = self._checked = False
        self._memory_only = False
        self._dirty: dict[FootprintKey, Footprint] = {}
        self._untold: dict[FootprintKey, Footprint] = {}
        self._anew = False  # until the file was read, the sentinel may know more than this process does
        self._working = self._soon = False
        self._next_at = 0.0
        self._failures = 0

    def due_at(self) -> float:
        """When `step` has something to do, in boottime seconds."""
        tell_at = self._tell_at if self._untold or self._anew else float("inf")
        return min(tell_at, float("inf") if self._working or self._memory_only else self._file_at())

    def step(self) -> None:
        """Tell and write what is due."""
        self._lane.check()
        now = self._clock()
        if (self._untold or self._anew) and now >= self._tell_at:
            self._tell(now)
        if self._working or self._memory_only or now < self._file_at():
            return
        if self._lane.stuck:  # a thread that still hangs says that the next would hang as well
            self._next_at = now + BACKOFF_FIRST_SECONDS
        elif not self._checked:
            self._working = True
            self._lane.submit(self._store.load, now + PATIENCE_SECONDS, self._on_loaded)
        else:
            self._save(now)

    def learn(self, lessons: tuple[Lesson, ...]) -> None:
        """What the sentinel was taught."""
        now, wall = self._clock(), time.time()
        if not self._loaded:
            self._early.append((lessons, now, wall))
        self.ledger, rows = taught(self.ledger, lessons, now, wall)
        self._changed(rows)
        if not self._failures and any(lesson.anon_bytes is not None for lesson in lessons):
            self._soon = True
            self._next_at = min(self._next_at, now + SAVE_SOON_SECONDS)

    def close(self) -> None:
        """The last write, if the disk takes it at once."""
        if not self._checked or self._working or self._memory_only or self._failures:
            return
        done = threading.Event()
        write = self._write(self._clock())

        def work() -> None:
            write()
            done.set()

        self._lane.submit(work, self._clock() + LAST_WRITE_SECONDS, lambda _: None)
        done.wait(LAST_WRITE_SECONDS)

    def _file_at(self) -> float:
        """When the file is to be read or written."""
        if self._dirty or self._failures or not self._checked:
            return self._next_at
        return max(self._next_at, self._saved_at + SAVE_ANYWAY_SECONDS)

    def _tell(self, now: float) -> None:
        rows = tuple(self._untold.pop(key) for key in list(self._untold)[:ROWS_AT_ONCE])
        self._send(FootprintsObserved(now, watched_seconds(self.ledger, now), rows, self._anew))
        self._anew, self._tell_at = False, now + TELL_SECONDS

    def _changed(self, rows: Iterable[Footprint]) -> None:
        changed = {row.key: row for row in rows}
        self._untold |= changed
        if not self._memory_only:
            self._dirty |= changed

    def _write(self, now: float) -> Callable[[], None]:
        rows, seconds = tuple(self._dirty.values()), watched_seconds(self.ledger, now)
        return lambda: self._store.save(rows, seconds)

    def _save(self, now: float) -> None:
        write, rows, self._dirty = self._write(now), self._dirty, {}
        self._working, self._soon = True, False
        self._lane.submit(write, now + PATIENCE_SECONDS, lambda result: self._on_saved(result, rows))

    def _on_saved(self, result: Result, rows: dict[FootprintKey, Footprint]) -> None:
        self._working, now = False, self._clock()
        if result.error is not None:
            self._dirty = rows | self._dirty
            self._checked = False  # it may be spoilt, which is for a look at the whole file to find out
            self._failed(result.error)
            return
        # What was measured while a slow disk still wrote comes soon as well.
        self._saved_at, self._next_at = now, now + (SAVE_SOON_SECONDS if self._soon else SAVE_SECONDS)
        if self._failures:
            self._failures = 0
            log().notice(
                "guard.reported", message=f"the footprint ledger is written again: {self._store.path}"
            )

    def _on_loaded(self, result: Result) -> None:
        self._working = False
        if not isinstance(result.value, Loaded):
            self._failed(result.error)
            return
        if result.value.set_aside:
            log().warning("guard.warned", message=result.value.set_aside, path=str(self._store.path))
            self._dirty = {row.key: row for row in rows_of(self.ledger)}
        self._checked = True
        self._next_at = 0.0
        if not self._loaded:
            self._loaded = True
            self._take_over(result.value.ledger)

    def _take_over(self, found: Ledger) -> None:
        """Go on from what the file held, with what was learnt since the start on top."""
        self.ledger, self._dirty = replace(found, at=self._started_at), {}
        for lessons, at, wall in self._early:
            self.ledger, rows = taught(self.ledger, lessons, at, wall)
            self._dirty |= {row.key: row for row in rows}
        self._early.clear()
        self._untold, self._anew = {row.key: row for row in rows_of(self.ledger)}, True

    def _failed(self, problem: GuardError | None) -> None:
        if isinstance(problem, NewerLedger):
            self._memory_only, self._dirty = True, {}
            self._early.clear()
        if self._memory_only or not self._failures:
            told = f"the footprint ledger is kept in memory only: {problem}"
            log().warning("guard.warned", message=told, path=str(self._store.path))
        delay = min(BACKOFF_FIRST_SECONDS * 2**self._failures, BACKOFF_LONGEST_SECONDS)
        self._next_at = self._clock() + delay
        self._failures = min(self._failures + 1, 10)
