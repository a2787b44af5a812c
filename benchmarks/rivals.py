"""The guards that are compared, each as its package ships it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from beds.guard import Guard
from beds.packages import require_program
from beds.server import RealServer
from beds.smallhost import SmallHost

NAMES = ("none", "earlyoom", "nohang", "ollama-guard")
# nohang takes about half a second until it watches.
READY_SECONDS = 2.0
# What Debian's units start.
EARLYOOM = ("-r", "3600")
NOHANG = ("--monitor", "--config", "/etc/nohang/nohang.conf")


class Running:
    """A guard's processes, and what they have cost since they were ready; "none" has none."""

    def __init__(self, pid: int | None) -> None:
        self._processes = (
            [] if pid is None else [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        )
        self._cpu_seconds = self._spent()

    def pss_bytes(self) -> int | None:
        """Proportional share of memory of all its processes; None without any."""
        if not self._processes:
            return None
        return sum(process.memory_full_info().pss for process in self._processes if process.is_running())

    def cpu_seconds(self) -> float | None:
        """CPU time of all its processes since they were ready; None without any."""
        return self._spent() - self._cpu_seconds if self._processes else None

    def _spent(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes if process.is_running())


@contextlib.contextmanager
def protected(name: str, host: SmallHost, server: RealServer) -> Iterator[Running]:
    """The small machine under this guard, until the context ends."""
    if name == "none":
        yield Running(None)
        return
    if name == "ollama-guard":
        with Guard(server.url, cgroup="", launcher=host.popen) as guard:
            guard.wait_guarding(host.inner_pid(server.pid))
            yield Running(guard.pid)
        return
    program, options = (
        (require_program("earlyoom", "earlyoom"), EARLYOOM)
        if name == "earlyoom"
        else (require_program("nohang", "nohang"), NOHANG)
    )
    started = host.popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(READY_SECONDS)
        if started.poll() is not None:
            raise RuntimeError(f"{Path(program).name} ended at once")
        yield Running(started.pid)
    finally:
        started.stop()
