"""One look at how servers are run; carried out by a lane, from values and into values."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ollama_guard.core.model import ServerReading
from ollama_guard.core.policy import OllamaPolicy
from ollama_guard.core.runtime import (
    RuntimeKind,
    RuntimeReading,
    RuntimeState,
    container_id_of,
    is_in_unit,
)
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.remembered import RememberedRuntimes, StoppedRuntimes
from ollama_guard.ports import RuntimePort

# Seconds for one call of a look: Docker answers in some milliseconds, a busy one in a second.
CALL_SECONDS = 4.0
# Characters of a container's id that people know it by, as `docker ps` shows them.
SHORT_ID = 12

Key = tuple[int, int]
PortOf = Callable[[RuntimeKind], RuntimePort]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look saw: by server where it was looked for, else by name; and what an earlier life knew.

    ``stopped`` names what the guard stopped before this boot, ``left_lines`` are what it wrote then.
    """

    found: dict[Key, RuntimeReading] = field(default_factory=dict)
    read: tuple[RuntimeReading, ...] = ()
    remembered: tuple[tuple[RuntimeKind, str], ...] = ()
    stopped: frozenset[str] = frozenset()
    left_lines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """``unfound`` servers are looked for, ``known`` ones read by name; ``remembered`` at the first look."""

    policy: OllamaPolicy
    port_of: PortOf
    unfound: tuple[ServerReading, ...]
    known: tuple[tuple[RuntimeKind, str], ...]
    stopped: StoppedRuntimes
    environment: EnvironmentFile
    remembered: RememberedRuntimes | None = None

    def take(self) -> Looked:
        """Make the calls."""
        remembered = self.remembered.read() if self.remembered is not None else ()
        configured: tuple[tuple[RuntimeKind, str], ...] = ()
        if self.policy.runtime is not None and self.policy.runtime_name:
            configured = ((self.policy.runtime, self.policy.runtime_name),)
        found = {(server.pid, server.start_ticks): self._find(server) for server in self.unfound}
        seen = {(reading.kind, reading.name) for reading in found.values()}
        names = dict.fromkeys((*self.known, *remembered, *configured))
        read = tuple(self._read(*key) for key in names if key not in seen)
        down = self._left_down((*found.values(), *read))
        return Looked(found, read, remembered, down, self.environment.left())

    def _left_down(self, readings: tuple[RuntimeReading, ...]) -> frozenset[str]:
        """What was stopped before this boot; who has started it since does not matter."""
        stopped = self.stopped.before_boot()
        running = {reading.name for reading in readings if reading.state is RuntimeState.RUNNING} & stopped
        for name in running:
            with contextlib.suppress(RuntimeFailed):
                self.stopped.started(name)
        return stopped - running

    def _find(self, server: ServerReading) -> RuntimeReading:
        for kind in self._kinds_of(server):
            try:
                reading = self.port_of(kind).find(server, CALL_SECONDS)
                if reading is None and kind is self.policy.runtime and self.policy.runtime_name:
                    reading = self.port_of(kind).read(self.policy.runtime_name, CALL_SECONDS)
            except RuntimeFailed as problem:
                return failed(kind, _likely_name(kind, server), problem.kind, str(problem), server.pid)
            if reading is not None:
                return reading
        why = f"process {server.pid} is none of its own, and nothing else is configured"
        return failed(self.policy.runtime or RuntimeKind.PROCESS, "", "gone", why, server.pid)

    def _kinds_of(self, server: ServerReading) -> tuple[RuntimeKind, ...]:
        """The owner's word, else what the cgroup points at; Docker's library is loaded only where it does."""
        if self.policy.runtime is not None:
            return (self.policy.runtime,)
        cgroup = server.cgroup or ""
        docker = (RuntimeKind.DOCKER,) if container_id_of(cgroup) else ()
        systemd = (RuntimeKind.SYSTEMD,) if is_in_unit(cgroup) else ()
        return (*docker, *systemd, RuntimeKind.PROCESS)

    def _read(self, kind: RuntimeKind, name: str) -> RuntimeReading:
        try:
            return self.port_of(kind).read(name, CALL_SECONDS)
        except RuntimeFailed as problem:
            return failed(kind, name, problem.kind, str(problem))


def failed(
    kind: RuntimeKind, name: str, error: str, reason: str, server_pid: int | None = None
) -> RuntimeReading:
    """The reading of a runtime that can't be read now; that it is gone was seen at a time, too."""
    state = RuntimeState.GONE if error == "gone" else RuntimeState.UNKNOWN
    read_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    return RuntimeReading(kind, name, state, read_at, server_pid=server_pid, error=error, reason=reason)


def _likely_name(kind: RuntimeKind, server: ServerReading) -> str:
    """What a runtime is called by its cgroup alone, where it could not be asked."""
    cgroup = server.cgroup or ""
    if kind is RuntimeKind.DOCKER:
        return (container_id_of(cgroup) or "")[:SHORT_ID]
    units = [part for part in cgroup.split("/") if part.endswith(".service")]
    return units[-1] if units else ""
