"""What people see, seen from the main loop: the status board, the public file, the processes' own size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_guard.control.public import write_status
from ollama_guard.errors import GuardError
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, Result
from ollama_guard.hands.weighing import Scales

# Seconds between two looks at our own memory: smaps_rollup walks every page table entry.
METER_SECONDS = 10.0
# Seconds for one write of the file, or one look at our memory.
PATIENCE_SECONDS = 5.0
# Seconds between two writes on change, and without one (readers hold 60 s for stale). What is written may be
# as old as a rest of the sentinel (3 s), and what is read shall be ten seconds old at most.
WRITE_GAP_SECONDS = 1.0
WRITE_SECONDS = 7.0
# Seconds until the next try when the disk failed, doubling.
BACKOFF_FIRST_SECONDS = 10.0
BACKOFF_LONGEST_SECONDS = 300.0
# What counts as a change: not the numbers that move at every tick.
_TELLING = (
    "version",
    "mode",
    "level",
    "since",
    "conditions",
    "condemned",
    "quarantine",
    "last_decision",
    "playbook",
)
_KIBIBYTE = 1024


class StatusBoard:
    """The newest status, with what only this process knows; read by the sockets' threads."""

    def __init__(self, clock: Clock, scales: Scales) -> None:
        self._clock = clock
        self._scales = scales
        self._posted: tuple[dict[str, Any], float] | None = None
        self.sizes = Sizes(reason="not measured yet")

    def post(self, status: dict[str, Any]) -> None:
        """Hang up a new status."""
        self._scales.pressed(status.get("level"))
        self._posted = (status, self._clock())

    def look_up(self) -> None:
        """Somebody asks: have that looked up which is looked up on demand only; waits a second at most."""
        if self._posted is not None:
            self._scales.fresh()

    def age_seconds(self) -> float:
        """Since the sentinel's last word; infinite before the first."""
        return float("inf") if self._posted is None else self._clock() - self._posted[1]

    def document(self) -> dict[str, Any] | None:
        """The newest status with ``guard.pss_bytes`` of both processes and ``consumers``, or null and why.

        ``guard.age_seconds`` says how long ago the sentinel spoke: one that hangs has no say any more.
        """
        if self._posted is None:
            return None
        status, sizes = self._posted[0], self.sizes
        guard, unknown = status.get("guard"), status.get("unknown")
        consumers, why_not = self._scales.told()
        document = {
            **status,
            "consumers": consumers,
            "guard": {
                **(guard if isinstance(guard, dict) else {}),
                "pss_bytes": sizes.total,
                "age_seconds": round(self.age_seconds(), 1),
            },
        }
        known = ("guard.pss_bytes", "consumers")
        reasons = {k: v for k, v in unknown.items() if k not in known} if isinstance(unknown, dict) else {}
        if consumers is None:
            reasons["consumers"] = why_not
        if sizes.total is None:
            reasons["guard.pss_bytes"] = sizes.reason
        return {**document, "unknown": reasons}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Proportional set sizes in bytes: this process, and both together."""

    own: int | None = None
    total: int | None = None
    reason: str = ""


class Meter:
    """Measures both processes now and then, in a lane: the kernel may make a reader of smaps wait."""

    def __init__(self, board: StatusBoard, mailbox: Mailbox, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._lane = Lane("meter", 1, mailbox, clock)
        self._due_at: float | None = 0.0

    def due_at(self) -> float:
        """When `step` has something to do."""
        return float("inf") if self._due_at is None else self._due_at

    def step(self) -> None:
        """Measure, if it is time."""
        self._lane.check()
        now = self._clock()
        if self._due_at is not None and now >= self._due_at:
            self._due_at = None
            sentinel = os.getppid()
            self._lane.submit(lambda: measured(os.getpid(), sentinel), now + PATIENCE_SECONDS, self._on_sizes)

    def _on_sizes(self, result: Result) -> None:
        self._due_at = self._clock() + METER_SECONDS
        if isinstance(result.value, Sizes):
            self._board.sizes = result.value


def measured(own: int, sentinel: int) -> Sizes:
    """The sizes of two processes; what can't be read is None, with the reason."""
    own_bytes = None
    try:
        own_bytes = pss_bytes(own)
        return Sizes(own=own_bytes, total=own_bytes + pss_bytes(sentinel))
    except (OSError, ValueError, IndexError) as problem:
        return Sizes(own=own_bytes, reason=f"smaps_rollup can't be read: {problem}")


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process in bytes, from ``/proc/PID/smaps_rollup``."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * _KIBIBYTE


class StatusFile:
    """Keeps ``public/status.json`` fresh; a disk that is full, read-only or hanging costs one warning."""

    def __init__(self, folder: Path, board: StatusBoard, mailbox: Mailbox, clock: Clock) -> None:
        self._folder = folder
        self._board = board
        self._clock = clock
        self._lane = Lane("files", 1, mailbox, clock)
        self._writing = False
        self._next_at = 0.0
        self._last_at = float("-inf")
        self._written: object = None
        self._failures = 0

    def due_at(self) -> float:
        """When `step` has something to do."""
        return float("inf") if self._writing else self._next_at

    def step(self) -> None:
        """Write, if it is time and there is something to say."""
        self._lane.check()
        now = self._clock()
        if self._writing or now < self._next_at:
            return
        document = self._board.document()
        silent = self._board.age_seconds() > WRITE_SECONDS
        if document is None or silent or self._lane.stuck:
            # Readers tell by the file's time that the sentinel is silent, so old news isn't written again.
            # And a thread that still hangs in the last write says that the next would hang as well.
            self._next_at = now + WRITE_GAP_SECONDS
            return
        self._writing, self._written = True, telling(document)
        folder = self._folder
        self._lane.submit(lambda: write_status(folder, document), now + PATIENCE_SECONDS, self._on_written)

    def posted(self) -> None:
        """A new status hangs on the board: what has changed is written a second after the last time."""
        document = self._board.document()
        if document is not None and not self._failures and telling(document) != self._written:
            self._next_at = min(self._next_at, max(self._clock(), self._last_at + WRITE_GAP_SECONDS))

    def _on_written(self, result: Result) -> None:
        now = self._clock()
        self._writing, self._last_at = False, now
        if result.error is not None:
            self._failed(result.error, now)
            return
        self._next_at = now + WRITE_SECONDS
        if self._failures:
            self._failures = 0
            log().notice("guard.reported", message=f"{self._folder}/status.json is written again")

    def _failed(self, problem: GuardError, now: float) -> None:
        if not self._failures:
            log().warning(
                "guard.warned", message=f"the status file is stale: {problem}", folder=str(self._folder)
            )
        self._next_at = now + min(BACKOFF_FIRST_SECONDS * 2**self._failures, BACKOFF_LONGEST_SECONDS)
        self._failures = min(self._failures + 1, 10)


def telling(status: Mapping[str, Any]) -> object:
    """The part of a status whose change is worth a write at once."""
    models, ollama = status.get("models"), status.get("ollama")
    shown = [
        (model.get("name"), model.get("state"), model.get("pid"))
        for model in (models if isinstance(models, list) else [])
        if isinstance(model, dict)
    ]
    alive = ollama.get("alive") if isinstance(ollama, dict) else None
    tiers = status.get("tiers")
    rungs = [
        (tier.get("name"), tier.get("allowed"))
        for tier in (tiers if isinstance(tiers, list) else [])
        if isinstance(tier, dict)
    ]
    return [status.get(key) for key in _TELLING], shown, alive, rungs
