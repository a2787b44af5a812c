"""The flight recorder on the side of `hands`: takes records, and has a lane write them, disk permitting.

While all is calm they are gathered for some seconds and synced once a minute, to spare an SD card; from
`soft` on they are written every second and synced every five, and at once when the level changes, since
power may be pulled at any time. A disk that fails or hangs costs records, and one warning.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.core.model import Level
from ollama_guard.core.policy import RecordPolicy
from ollama_guard.errors import GuardError
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, NeverStarted, Result
from ollama_guard.hands.traces import TraceFile
from ollama_guard.wire import Recorded, TraceWanted

# Seconds from one write to the next, and from one sync to the next: while calm, and from soft on.
WRITE_CALM_SECONDS, WRITE_SECONDS = 10.0, 1.0
SYNC_CALM_SECONDS, SYNC_SECONDS = 60.0, 5.0
# Characters that are written at once, however calm it is.
WRITE_LENGTH = 32 * 1024
# Seconds for one write with its sync; a slow card takes some tenths.
PATIENCE_SECONDS = 5.0
# Seconds until the next try when the disk failed, doubling.
BACKOFF_FIRST_SECONDS = 10.0
BACKOFF_LONGEST_SECONDS = 300.0
# Characters that may wait for the disk: a minute of the fastest ticks.
WAITING_LIMIT = 2 * 1024 * 1024
# Seconds that the end of the process may be held up for the last records.
LAST_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class _Job:
    """What one turn of the lane gets: the open file, what to append, whether to sync."""

    file: TraceFile | None
    messages: Sequence[Recorded]
    sync: bool
    folder: Path
    policy: RecordPolicy

    def run(self) -> TraceFile | None:
        """Write; where a trace starts, a file starts too if the present one is full or there is none."""
        file = self.file
        for message in self.messages:
            if message.starts and (file is None or file.size >= self.policy.max_file_bytes):
                if file is not None:
                    file.close()
                older_bytes = self.policy.max_total_bytes - self.policy.max_file_bytes
                file = TraceFile(self.folder, older_bytes, time.time())
            if file is not None:
                file.write(message.lines)
        if file is not None and self.sync:
            file.sync()
        return file


class Recording:
    """One trace file after the other, as long as the policy wants it; the main loop's."""

    def __init__(
        self,
        state_dir: Path,
        policy: RecordPolicy,
        send: Callable[[TraceWanted], bool],
        mailbox: Mailbox,
        clock: Clock,
    ) -> None:
        self._default = state_dir / "traces"
        self._policy = policy
        self._send = send
        self._mailbox = mailbox
        self._clock = clock
        self._lane = Lane("traces", 1, mailbox, clock)
        self._file: TraceFile | None = None
        self._waiting: list[Recorded] = []
        self._length = 0
        self._level = Level.OK
        self._asked = False  # a header is on its way
        self._broken = True  # what comes before that header has no file to go to
        self._ask_at = 0.0
        self._writing: Sequence[Recorded] | None = None
        self._elsewhere = False  # what is written now still goes to a file that is done with
        self._written_at = self._synced_at = float("-inf")
        self._at_once = False
        self._lost = 0
        self._failures = 0

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return Path(self._policy.folder) if self._policy.folder else self._default

    def follow(self, policy: RecordPolicy) -> None:
        """Take a reloaded policy; another folder, or none, begins with another file."""
        if (policy.enabled, policy.folder) != (self._policy.enabled, self._policy.folder):
            self._let_go()
            self._ask_at = 0.0
            self._elsewhere = self._writing is not None
            if not self._elsewhere:
                self._close()
            self._send(TraceWanted(wanted=False))
        self._policy = policy

    def recorded(self, message: Recorded) -> None:
        """The sentinel sent lines."""
        if message.starts:
            self._asked = self._broken = False
        if self._broken or self._length + len(message.lines) > WAITING_LIMIT:
            self._broken = True
            self._lost += message.count
            return
        self._at_once |= message.starts or message.level is not self._level
        self._level = message.level
        self._waiting.append(message)
        self._length += len(message.lines)

    def due_at(self) -> float:
        """When `step` has something to do."""
        if not self._policy.enabled or self._writing is not None:
            return float("inf")
        if self._broken and not self._asked:
            return self._ask_at
        return self._write_at() if self._waiting or self._file is not None else float("inf")

    def step(self) -> None:
        """Ask for a trace, or write, if it is time."""
        self._lane.check()
        now = self._clock()
        if not self._policy.enabled or self._writing is not None or now < self.due_at():
            return
        if self._broken and not self._asked:
            self._ask(now)
        elif self._waiting or self._file is not None:
            self._write(now)

    def finish(self) -> None:
        """Write what waits before the process ends; a disk that hangs holds it up for `LAST_SECONDS`."""
        until = self._clock() + LAST_SECONDS
        poll = select.poll()
        poll.register(self._mailbox.fileno(), select.POLLIN)
        while (left := until - self._clock()) > 0 and (self._writing is not None or self._waiting):
            if self._writing is None:
                self._at_once = True
                self._write(self._clock())
            poll.poll(left * 1000)
            self._mailbox.run()

    def _ask(self, now: float) -> None:
        if self._lane.stuck:  # a thread that still hangs in the last write says that the next would too
            self._ask_at = now + BACKOFF_FIRST_SECONDS
            return
        self._asked = self._send(TraceWanted(wanted=True, lost=self._lost))
        if self._asked:
            self._lost = 0
        else:
            self._ask_at = now + BACKOFF_FIRST_SECONDS

    def _write_at(self) -> float:
        """When the next write is due: at once, after a pause, or for a sync alone."""
        if self._at_once or self._length >= WRITE_LENGTH:
            return float("-inf")
        calm = self._level is Level.OK
        sync_at = self._synced_at + (SYNC_CALM_SECONDS if calm else SYNC_SECONDS)
        if not self._waiting:
            return sync_at
        return min(sync_at, self._written_at + (WRITE_CALM_SECONDS if calm else WRITE_SECONDS))

    def _write(self, now: float) -> None:
        calm = self._level is Level.OK
        sync = self._at_once or now - self._synced_at >= (SYNC_CALM_SECONDS if calm else SYNC_SECONDS)
        self._writing, self._waiting = self._waiting, []
        self._length, self._at_once = 0, False
        job = _Job(self._file, self._writing, sync, self.folder, self._policy)
        self._written_at = now
        if sync:
            self._synced_at = now
        self._lane.submit(job.run, now + PATIENCE_SECONDS, self._on_written)

    def _on_written(self, result: Result) -> None:
        written, self._writing = self._writing or (), None
        if self._elsewhere:
            self._elsewhere = False
            self._file = result.value if isinstance(result.value, TraceFile) else None
            self._close()
            return
        if result.error is not None:
            self._lost += sum(message.count for message in written)
            self._failed(result.error)
            return
        self._file = result.value if isinstance(result.value, TraceFile) else None
        if self._failures:
            self._failures = 0
            log().notice("guard.reported", message=f"traces are written again, in {self.folder}")
        if self._file is not None and self._file.size >= self._policy.max_file_bytes and not self._asked:
            self._asked = self._send(TraceWanted(wanted=True, continues=True))

    def _failed(self, problem: GuardError) -> None:
        if not self._failures:
            text = f"nothing is recorded until the disk is well again: {problem}"
            log().warning("guard.warned", message=text, folder=str(self.folder))
        self._let_go()
        self._lost = max(self._lost, 1)  # a gap, whatever was in line
        if isinstance(problem, NeverStarted):
            self._close()
        self._file = None  # closed when it failed; else its thread, which still hangs in it, will do that
        self._send(TraceWanted(wanted=False))
        self._ask_at = self._clock() + min(BACKOFF_FIRST_SECONDS * 2**self._failures, BACKOFF_LONGEST_SECONDS)
        self._failures = min(self._failures + 1, 10)

    def _close(self) -> None:
        """Close the present file, in the lane: on some disks closing waits too."""
        file, self._file = self._file, None
        if file is not None:
            self._lane.submit(file.close, self._clock() + PATIENCE_SECONDS, lambda _: None)

    def _let_go(self) -> None:
        """What waits has no file to go to; nothing more comes until it is asked for."""
        self._lost += sum(message.count for message in self._waiting)
        self._waiting, self._length = [], 0
        self._asked, self._broken = False, True
