"""Scans of all processes, in steps, as seldom as will do."""

from __future__ import annotations

from collections.abc import Iterator

from ollama_guard.sentinel.sensors.processes import Stat, pids, read_stat

# Processes read in one step: about 4 ms, so that a crowded host can't stretch a look.
STEP = 400


class Scan:
    """One scan after the other; each is begun when it is due and goes on at every step until it is done."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._left: Iterator[int] | None = None
        self._due_at = float("-inf")
        # PIDs of kernel threads, in this scan and in the one before it: most processes of a calm machine, and
        # none ever becomes a program. Their PIDs are used again only after all others were.
        self._kernel: set[int] = set()
        self._kernel_before: set[int] = set()
        self.finished = False

    def start_over(self) -> None:
        """Begin anew at the next step: what was passed already may be another process now."""
        self._left = None
        self._kernel.clear()
        self._due_at = float("-inf")

    def hasten(self, at: float) -> None:
        """Begin the next scan at this time at the latest."""
        self._due_at = min(self._due_at, at)

    def step(self, now: float, known: set[int], wait_seconds: float) -> list[Stat]:
        """Living processes, without the ``known`` ones; ``finished`` is True after a scan's last step."""
        self.finished = False
        if self._left is None:
            if now < self._due_at:
                return []
            self._left = pids(self._proc)
            self._kernel_before, self._kernel = self._kernel, set()
            self._due_at = now + wait_seconds
        found: list[Stat] = []
        read = 0
        while read < STEP:
            pid = next(self._left, None)
            if pid is None:
                self._left = None
                self.finished = True
                break
            if pid in self._kernel_before:
                self._kernel.add(pid)
                continue
            read += 1
            stat = read_stat(self._proc, pid) if pid not in known else None
            if stat is not None and stat.kernel_thread:
                self._kernel.add(pid)
            elif stat is not None and not stat.dead:
                found.append(stat)
        return found
