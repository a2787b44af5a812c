"""What `/proc` tells of a process."""

from __future__ import annotations

from pathlib import Path


def smaps(pid: int, key: str) -> float:
    """MiB of a process by smaps_rollup (``Pss``, ``Rss`` …)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of the main thread so far, to the nanosecond (the sentinel has one thread)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
