"""The two clocks: boottime seconds for every duration, epoch seconds for people."""

from __future__ import annotations

import time


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: monotonic, counting suspend, shared by all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Epoch seconds, for display only."""
    return time.time()
