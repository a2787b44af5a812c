"""`RuntimePort` of a server that nobody starts: it can be read, and nothing else be done to it here."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.errors import RuntimeFailed

_CANNOT = "nothing here could start it again"
_HINT = "run Ollama as a systemd unit (its install script makes one) or in a container"


class ProcessRuntime:
    """Bare processes; signals are the sentinel's. The name is the PID and the start time in clock ticks."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = Path(proc)

    def find(self, server: ServerReading, deadline_seconds: float) -> RuntimeReading | None:
        """Every server is a process."""
        return self.read(f"{server.pid}-{server.start_ticks}", deadline_seconds)

    def read(self, name: str, deadline_seconds: float) -> RuntimeReading:
        """Whether it is still there, the very same process."""
        del deadline_seconds
        pid, _, start_ticks = name.partition("-")
        state = RuntimeState.GONE
        try:
            fields = (self._proc / pid / "stat").read_bytes().rpartition(b")")[2].split()
            if fields[19] == start_ticks.encode() and fields[0] not in (b"Z", b"X"):
                state = RuntimeState.RUNNING
        except (OSError, IndexError):
            pass
        return RuntimeReading(
            kind=RuntimeKind.PROCESS,
            name=name,
            state=state,
            read_at=time.clock_gettime(time.CLOCK_BOOTTIME),
            server_pid=int(pid) if state is RuntimeState.RUNNING else None,
            started_at=_started_at(start_ticks),
            cannot=_CANNOT,
            hint=_HINT,
        )

    def stop(self, name: str, deadline_seconds: float) -> None:
        """Never: it would stay stopped."""
        del deadline_seconds
        raise RuntimeFailed("unsupported", f"process {name} is not stopped, since {_CANNOT}")

    def start(self, name: str, deadline_seconds: float) -> None:
        """Never: nobody knows how."""
        del deadline_seconds
        raise RuntimeFailed("unsupported", f"process {name} can't be started: {_HINT}")

    def limit(self, name: str, limits: Limits, deadline_seconds: float) -> tuple[str, ...]:
        """Nothing can be set; says so."""
        del name, deadline_seconds
        named = [what for what, value in (("memory", limits.memory_bytes), ("CPU", limits.cpus)) if value]
        return tuple(f"no {what} limit: a bare process has no cgroup of its own" for what in named)

    def unlimit(self, name: str, deadline_seconds: float) -> None:
        """Nothing was set."""


def _started_at(start_ticks: str) -> float | None:
    """Boottime seconds of a start time as the kernel counts it."""
    return int(start_ticks) / os.sysconf("SC_CLK_TCK") if start_ticks.isdigit() else None
