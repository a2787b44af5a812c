"""The small world that the demo's guard lives in: a /proc with the demo's own processes, and its own meminfo.

The sentinel's sensors take the root of their process files as a parameter; here it is a folder with

    meminfo             MemTotal = the budget, MemAvailable = the budget - what the actors really hold
    self/               no mounts (no cgroup of this machine is a domain), the threads of whoever reads
    4711 -> /proc/4711  one link for each process that the guard may know of: our server and its runners

so a real Ollama on the same machine is not merely left alone: it can't be seen at all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ollama_guard.sentinel.sensors.files import slurp
from ollama_guard.sentinel.sensors.processes import parse_status

# Seconds between two readings: the guard's own shortest tick, so that it never looks at much older news.
KEEP_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes memory: PID to name. The guard can see ``ollama`` only."""

    ollama: Mapping[int, str] = field(default_factory=dict)
    others: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading in bytes; ``held`` by name of the actor, ``at`` in monotonic seconds."""

    at: float
    available_bytes: int
    held: Mapping[str, int]

    @property
    def used_bytes(self) -> int:
        """What all actors hold together."""
        return sum(self.held.values())


class World:
    """Keeps the folder true, every 20 ms, in a thread of its own."""

    def __init__(self, folder: Path, budget_bytes: int, cast: Callable[[], Cast]) -> None:
        self.proc = folder / "proc"
        self.budget_bytes = budget_bytes
        self.problem = ""
        self._cast = cast
        self._links: set[str] = set()
        self._stop = threading.Event()
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "mountinfo").touch()
        (self.proc / "self" / "task").symlink_to("/proc/self/task")
        self._meminfo = os.open(self.proc / "meminfo", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.latest = self.read()
        self.least = self.latest
        self._thread = threading.Thread(target=self._keep, name="world", daemon=True)
        self._thread.start()

    def read(self) -> Reading:
        """Measure everybody now, and let the guard see it."""
        cast = self._cast()
        held: dict[str, int] = {}
        for pid, name in (*cast.ollama.items(), *cast.others.items()):
            held[name] = held.get(name, 0) + memory_bytes(pid)
        available = max(0, self.budget_bytes - sum(held.values()))
        self._write(available)
        self._show(cast)
        return Reading(time.monotonic(), available, held)

    def close(self) -> None:
        """Stop keeping it; the folder is the caller's to remove."""
        self._stop.set()
        self._thread.join()
        os.close(self._meminfo)

    def _keep(self) -> None:
        while not self._stop.wait(KEEP_SECONDS):
            try:
                self.latest = self.read()
            except OSError as error:
                self.problem = f"the demo's own {error.filename or 'meminfo'} can't be kept: {error.strerror}"
                return
            if self.latest.available_bytes < self.least.available_bytes:
                self.least = self.latest

    def _write(self, available: int) -> None:
        # Always of the same length and in place: the sentinel keeps the file open.
        lines = {"MemTotal": self.budget_bytes, "MemAvailable": available, "SwapTotal": 0, "SwapFree": 0}
        text = "".join(f"{key}: {value // 1024:>12} kB\n" for key, value in lines.items())
        os.pwrite(self._meminfo, text.encode(), 0)

    def _show(self, cast: Cast) -> None:
        wanted = {str(pid) for pid in cast.ollama}
        for name in wanted - self._links:
            (self.proc / name).symlink_to(f"/proc/{name}")
        for name in self._links - wanted:
            with suppress(FileNotFoundError):
                (self.proc / name).unlink()
        self._links = wanted


def memory_bytes(pid: int) -> int:
    """What a process holds for itself: anonymous, shared and swapped; 0 once it is gone."""
    status = parse_status(slurp(f"/proc/{pid}/status") or b"")
    return (status.anon_bytes or 0) + (status.shmem_bytes or 0) + (status.swap_bytes or 0)
