"""The real sentinel without its rest: each turn of its loop ticks, none sleeps. For `benchmarks.growth`.

usage: hurried.py TICKS_FILE BOUNDED POLICY_FD CONFIG RUNTIME_DIR STATE_DIR; the file (8 bytes, native) tells
how many ticks it has made. BOUNDED 0: the readings of memory that slopes are taken from are never forgotten.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
from pathlib import Path

from ollama_guard.core import pressure
from ollama_guard.sentinel.__main__ import read_policy
from ollama_guard.sentinel.journal import open_journal
from ollama_guard.sentinel.loop import Loop
from ollama_guard.sentinel.outfit import Outfit, Setup
from ollama_guard.sentinel.sensors import Sensors


class Hurried(Loop):
    """As the sentinel's, but a tick is always due."""

    def __init__(self, outfit: Outfit, ticks: mmap.mmap) -> None:
        super().__init__(outfit)
        self._ticks, self._count = ticks, 0

    def _sleep_seconds(self) -> float:
        return 0.0

    def _guard(self) -> None:
        self._tick_at = 0.0
        super()._guard()
        self._count += 1
        struct.pack_into("=Q", self._ticks, 0, self._count)


def main(argv: list[str]) -> None:
    """Guard until a signal says otherwise."""
    file, bounded, policy_fd, config, runtime_dir, state_dir = argv
    if bounded == "0":
        pressure.SLOPE_WINDOW_SECONDS, pressure.SAMPLE_SPACING_SECONDS = 1e9, 0.0
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    descriptor = os.open(file, os.O_RDWR)
    ticks = mmap.mmap(descriptor, 8)
    os.close(descriptor)
    setup = Setup(read_policy(int(policy_fd)), config, Path(runtime_dir), state_dir)
    outfit = Outfit(setup, open_journal(os.environ), Sensors)
    try:
        Hurried(outfit, ticks).run()
    finally:
        outfit.close()


if __name__ == "__main__":
    main(sys.argv[1:])
