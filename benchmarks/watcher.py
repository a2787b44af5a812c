"""What is seen of a run from outside the small machine: its available memory, twenty times a second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Self

from beds.cgroups import MemoryCgroup

# Seconds between two samples: a burst of 1.5 GiB/s takes 75 MiB in that time.
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """One story under one guard; ``samples`` are (seconds since the beginning, available bytes)."""

    story: str
    guard: str
    job: bool
    answer: bool
    neighbour: bool
    models: list[str]
    oom_kills: int
    seconds_below_tenth: float
    lowest_bytes: int
    guard_pss_bytes: int | None
    guard_cpu_seconds: float | None
    seconds: float
    samples: list[tuple[float, int]]


class Watcher:
    """A thread that samples a cgroup between `begin` and `end`."""

    def __init__(self, cgroup: MemoryCgroup) -> None:
        self.samples: list[tuple[float, int]] = []
        self._cgroup = cgroup
        self._kills = 0
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """The story begins."""
        self._kills, self._began = self._cgroup.oom_kills(), time.monotonic()
        self._thread.start()

    def end(self) -> None:
        """The story is over; safe to call twice."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.samples.append((round(time.monotonic() - self._began, 3), self._cgroup.available()))

    def oom_kills(self) -> int:
        """Processes that the kernel has killed since the beginning."""
        return self._cgroup.oom_kills() - self._kills

    def seconds(self) -> float:
        """How long it took."""
        return self.samples[-1][0]

    def seconds_below(self, threshold_bytes: int) -> float:
        """How long less than so much was available."""
        pairs = zip(self.samples, self.samples[1:], strict=False)
        return sum(later - at for (at, available), (later, _) in pairs if available < threshold_bytes)

    def lowest(self) -> int:
        """The least that was available, in bytes."""
        return min(available for _, available in self.samples)
