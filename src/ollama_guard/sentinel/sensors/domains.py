"""The container domains of the servers, each with a name that stays while it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ollama_guard.core.model import CONTAINER, DomainReading
from ollama_guard.sentinel.sensors.cgroup import CgroupDomain
from ollama_guard.sentinel.sensors.cgtree import CgroupTrees
from ollama_guard.sentinel.sensors.files import is_directory
from ollama_guard.sentinel.sensors.host import HostMemory
from ollama_guard.sentinel.sensors.psi import Trigger
from ollama_guard.sentinel.sensors.watches import Watches

# Seconds between two looks at the mounts while a cgroup can't be found in them.
_MOUNTS_SECONDS = 10.0


@dataclass(slots=True)
class _Tracked:
    domain: CgroupDomain
    trigger: Trigger | None = None


class Domains:
    """One domain per distinct cgroup place; servers in the same place share it."""

    def __init__(self, proc: str, cgroup_root: str, watches: Watches) -> None:
        self.trees = CgroupTrees(proc, cgroup_root)
        self._watches = watches
        self._tracked: dict[bytes, _Tracked] = {}
        self._mounts_due_at = float("-inf")
        self._now = 0.0
        self.gone: frozenset[bytes] = frozenset()

    def read(
        self, memberships: Iterable[bytes], host: DomainReading, now: float
    ) -> tuple[tuple[DomainReading, ...], Mapping[bytes, str]]:
        """The limited domains of these /proc/PID/cgroup texts, and text -> domain name.

        ``gone`` are the texts whose cgroup was there and is no more: who was in it has been moved, or ended.
        """
        self._now = now
        wanted = dict.fromkeys(memberships)
        for text in self._tracked.keys() - wanted.keys():
            self._drop(text)
        readings: list[DomainReading] = []
        names: dict[bytes, str] = {}
        gone: set[bytes] = set()
        for text in wanted:
            tracked = self._find(text)
            if not tracked.domain.limited:
                tracked.domain.name = self._name(tracked.domain.place.path)
            reading = tracked.domain.read(now, host.capacity_bytes, host.available_bytes)
            if reading is None:
                continue
            if reading.reason and not is_directory(tracked.domain.place.directories[0]):
                gone.add(text)
            names[text] = reading.name
            if reading.name not in {known.name for known in readings}:
                readings.append(reading)
            self._tend_trigger(tracked, now)
        self.gone = frozenset(gone)
        return tuple(readings), names

    def glance(self, host: HostMemory, now: float) -> dict[str, int | None]:
        """Available bytes of each limited domain that was read last, by name; None = can't be read."""
        available: dict[str, int | None] = {}
        for tracked in self._tracked.values():
            reading = tracked.domain.memory(now, host.capacity_bytes, host.available_bytes)
            if reading is not None:
                available.setdefault(reading.name, reading.available_bytes)
        return available

    def path_of(self, text: bytes) -> str | None:
        """The memory cgroup's path in a /proc/PID/cgroup text that was read last, None if it has none."""
        tracked = self._tracked.get(text)
        return None if tracked is None else tracked.domain.place.path or None

    def notes(self) -> tuple[str, ...]:
        """Why a server's cgroup can't be told, one sentence each."""
        reasons = (tracked.domain.place.reason for tracked in self._tracked.values())
        return tuple(reason for reason in reasons if reason)

    def close(self) -> None:
        """Give every descriptor back."""
        for text in list(self._tracked):
            self._drop(text)

    def _find(self, text: bytes) -> _Tracked:
        """The domain of a /proc/PID/cgroup text; what is not in the mounts is looked for again at times."""
        tracked = self._tracked.get(text)
        if tracked is not None and (not tracked.domain.place.reason or self._now < self._mounts_due_at):
            return tracked
        place = self.trees.place(text)
        if place.reason and self._now >= self._mounts_due_at:
            self._mounts_due_at = self._now + _MOUNTS_SECONDS
            self.trees.refresh()
            place = self.trees.place(text)
        tracked = self._tracked[text] = _Tracked(CgroupDomain(place))
        return tracked

    def _name(self, path: str) -> str:
        """``container`` for the first, ``container:<last part>`` for others; a place keeps its name."""
        limited = [tracked.domain for tracked in self._tracked.values() if tracked.domain.limited]
        taken = {domain.place.path: domain.name for domain in limited}
        if path in taken:
            return taken[path]
        if CONTAINER not in taken.values():
            return CONTAINER
        name = f"{CONTAINER}:{path.rstrip('/').rpartition('/')[2]}"
        return name if name not in taken.values() else f"{CONTAINER}:{path}"

    def _tend_trigger(self, tracked: _Tracked, now: float) -> None:
        if not tracked.domain.place.pressure:
            return
        trigger = tracked.trigger = tracked.trigger or Trigger(tracked.domain.place.pressure)
        if trigger.tend(now):
            self._watches.add_trigger(trigger, lambda: self._now)

    def _drop(self, text: bytes) -> None:
        tracked = self._tracked.pop(text)
        tracked.domain.close()
        if tracked.trigger is not None:
            self._watches.remove(tracked.trigger.fd)
            tracked.trigger.close()
