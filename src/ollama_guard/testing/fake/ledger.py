"""The file to which each runner adds its PID and start time, so that a test can leave none behind."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

_GONE_SECONDS = 5.0  # after SIGKILL; several gigabytes are given back in less than one


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded runner; ``start_time`` in clock ticks since boot guards against PID reuse."""

    pid: int
    start_time: str

    @property
    def alive(self) -> bool:
        """Whether this very process lives (a zombie does not)."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return False
        return fields[0] not in "ZX" and fields[19] == self.start_time

    def kill(self) -> None:
        """SIGKILL, if it is still the same process, and wait until it is gone."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if self.alive:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], _GONE_SECONDS)
        finally:
            os.close(pidfd)


def record(path: Path) -> None:
    """Add the calling process."""
    start_time = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    with path.open("a") as file:
        file.write(f"{os.getpid()} {start_time}\n")


def read(path: Path) -> list[Row]:
    """All recorded runners, dead or alive."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return [Row(int(row[0]), row[1]) for row in rows if len(row) == 2]
