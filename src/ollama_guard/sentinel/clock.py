"""The two clocks: boottime seconds for every duration, epoch seconds for people."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: monotonic, counting suspend, shared by all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Epoch seconds, for display only."""
    return time.time()


def boot_id() -> str:
    """Which boot the boottime clock counts from; "" where the kernel does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
