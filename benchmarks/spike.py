"""A hog that knows when available memory crossed a threshold.

usage: spike.py CGROUP_DIRECTORY VERSION LIMIT_BYTES. A command a line in, a JSON answer a line out:

    settle BYTES TIME   take memory, ever slower, until BYTES are available (or give back, if it is less);
                        TIME is how far off the target is at the present rate (s): longer than the guard's own
                        relief is foreseen to take, so that no forecast fires
    step BYTES FLOOR    take BYTES at full speed; answers {"above": T, "below": T}: CLOCK_BOOTTIME of the last
                        sample with at least FLOOR available and of the first one with less (null: none)
    plunge FLOOR        as `step`, answered once it has crossed FLOOR; then on until the kernel says no
    release             give back what `step` took
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time

PORTION_BYTES = 1 << 20
"""About 0.5 ms of work: the moment of the crossing is known as exactly."""


class Cgroup:
    """The guard's own formula: limit - (usage - (file cache - dirty - writeback + slab))."""

    def __init__(self, directory: str, version: int, limit_bytes: int) -> None:
        usage = "memory.usage_in_bytes" if version == 1 else "memory.current"
        self._usage = os.open(f"{directory}/{usage}", os.O_RDONLY)
        self._stat = os.open(f"{directory}/memory.stat", os.O_RDONLY)
        prefix, dirt = (b"total_", b"") if version == 1 else (b"", b"file_")
        self._plus = {prefix + b"inactive_file", prefix + b"active_file"}
        self._plus |= {b"slab_reclaimable"} if version == 2 else set()
        self._minus = {prefix + dirt + b"dirty", prefix + dirt + b"writeback"}
        self._limit = limit_bytes

    def available(self) -> int:
        """Bytes."""
        usage = int(os.pread(self._usage, 64, 0))
        reclaimable = 0
        for line in os.pread(self._stat, 16384, 0).splitlines():
            key, _, value = line.partition(b" ")
            reclaimable += int(value) * ((key in self._plus) - (key in self._minus))
        return self._limit - usage + max(0, reclaimable)


class Spike:
    """Memory held in two heaps: the ballast, and what the last step took."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._block = os.urandom(PORTION_BYTES)
        self._ballast: list[mmap.mmap] = []
        self._stepped: list[mmap.mmap] = []

    def settle(self, target: int, seconds: float) -> dict[str, float | None]:
        """Come to ``target`` bytes available without looking like a fall."""
        while self._ballast and self._cgroup.available() < target:
            self._ballast.pop().close()
        while (left := self._cgroup.available() - target) > PORTION_BYTES:
            self._take(self._ballast)
            time.sleep(seconds * PORTION_BYTES / max(left, 8 * PORTION_BYTES))
        return {}

    def step(self, size: int, floor: int) -> dict[str, float | None]:
        """Take ``size`` bytes as fast as can be."""
        above: float = time.clock_gettime(time.CLOCK_BOOTTIME)
        below: float | None = None
        for _ in range(size // PORTION_BYTES):
            self._take(self._stepped)
            if below is None:
                now = time.clock_gettime(time.CLOCK_BOOTTIME)
                above, below = (above, now) if self._cgroup.available() < floor else (now, None)
        return {"above": above, "below": below}

    def plunge(self, floor: int) -> None:
        """Cross, say so, and never stop."""
        while (crossed := self.step(PORTION_BYTES, floor))["below"] is None:
            continue
        answer(crossed)
        while True:
            self._take(self._stepped)

    def release(self) -> dict[str, float | None]:
        """Give the step back."""
        while self._stepped:
            self._stepped.pop().close()
        return {}

    def _take(self, held: list[mmap.mmap]) -> None:
        area = mmap.mmap(-1, PORTION_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area[:] = self._block
        held.append(area)


def answer(told: dict[str, float | None]) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _main() -> None:
    spike = Spike(Cgroup(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    for line in sys.stdin:
        match line.split():
            case ["settle", target, seconds]:
                answer(spike.settle(int(target), float(seconds)))
            case ["step", size, floor]:
                answer(spike.step(int(size), int(floor)))
            case ["plunge", floor]:
                spike.plunge(int(floor))
            case _:
                answer(spike.release())


if __name__ == "__main__":
    _main()
