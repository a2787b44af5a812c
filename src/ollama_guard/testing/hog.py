"""A program that eats memory at a given speed: ``python -I -S hog.py PROGRESS``, the standard library only.

It obeys lines on its standard input: ``grow TARGET_BYTES BYTES_PER_SECOND``, ``release``; end of file ends
it, so it never outlives who started it. The file PROGRESS says how many bytes it holds, all of them touched.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

CHUNK_BYTES = 1 << 20
"""One step of growth: fine enough for 1 % steps of a 128 MiB cgroup, coarse enough for 2 GiB/s."""


def _grow(held: list[mmap.mmap], target: int, rate: int, report: int) -> None:
    block = os.urandom(CHUNK_BYTES)  # random, so that zram or KSM can't make it small
    began, had = time.monotonic(), sum(map(len, held))
    taken = had
    while taken < target:
        size = min(CHUNK_BYTES, target - taken)
        chunk = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        chunk[:] = block[:size]
        held.append(chunk)
        taken += size
        _report(report, taken)
        ahead = (taken - had) / rate - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)


def _report(descriptor: int, taken: int) -> None:
    os.pwrite(descriptor, b"%20d" % taken, 0)


def _main() -> None:
    held: list[mmap.mmap] = []
    report = os.open(sys.argv[1], os.O_WRONLY)
    for line in sys.stdin:
        match line.split():
            case ["grow", target, rate]:
                _grow(held, int(target), int(rate), report)
            case ["release"]:
                for chunk in held:
                    chunk.close()
                held.clear()
                _report(report, 0)


if __name__ == "__main__":
    _main()
