"""Processes that were looked at and are neither server nor runner, remembered for a while."""

from __future__ import annotations

from ollama_guard.sentinel.sensors.processes import Stat

# Seconds until such a process is looked at again: its argv changes if it execs, and what was not provable
# may be once the models directory is known.
AGAIN_SECONDS = 10.0
# The same for a newborn: between fork and exec a runner still shows its server's argv. The wait doubles, so
# a discovery process costs a handful of looks.
NEWBORN_SECONDS = 0.05


class Verdicts:
    """PID -> (start time, name, when to look again, how long that wait was)."""

    def __init__(self) -> None:
        self._noes: dict[int, tuple[int, str, float, float]] = {}

    def no(self, stat: Stat, now: float) -> None:
        """Remember that this process is neither; waits double from one look to the next."""
        past = self._noes.get(stat.pid)
        same = past is not None and past[:2] == (stat.start_ticks, stat.comm)
        wait = min(2 * past[3], AGAIN_SECONDS) if past is not None and same else NEWBORN_SECONDS
        self._noes[stat.pid] = (stat.start_ticks, stat.comm, now + wait, wait)

    def due(self, pid: int, now: float, stat: Stat | None = None) -> bool:
        """Whether to look at this process (again); another start time or name is another process."""
        past = self._noes.get(pid)
        if past is None or now >= past[2]:
            return True
        return stat is not None and past[:2] != (stat.start_ticks, stat.comm)

    def forget(self, pids: frozenset[int]) -> None:
        """These are gone; whoever has their PIDs next is looked at."""
        for pid in pids:
            self._noes.pop(pid, None)

    def prune(self, now: float) -> None:
        """Forget what would long have been looked at again: the process is gone."""
        self._noes = {pid: past for pid, past in self._noes.items() if now < past[2] + 2 * AGAIN_SECONDS}

    def clear(self) -> None:
        """Forget everything: the question has changed."""
        self._noes.clear()
