"""The tightest memory limit above a server: what its cgroup and each ancestor leave available."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_guard.core.model import CONTAINER, DomainReading
from ollama_guard.sentinel.sensors.cgtree import Place
from ollama_guard.sentinel.sensors.files import KeptFile, is_directory, keyed, may_write, number, refaults
from ollama_guard.sentinel.sensors.psi import parse_psi

# v1 writes "no limit" as PAGE_COUNTER_MAX pages in bytes (about 2**63), older kernels as other huge values.
NO_LIMIT = 2**60

# 4 KiB per second read back after eviction that make the page cache "in use": 256 is 1 MiB/s, which a disk
# hardly notices; single refaults happen on calm machines all the time.
REFAULT_PAGES_PER_SECOND = 256
# Seconds over which that rate is taken, and for which it holds: a second look a millisecond later must
# come to the same answer as the first.
_RATE_SECONDS = 0.5
_HOLD_SECONDS = 2.0
# Seconds between two looks at the limit of ancestors that can't be seen: it is part of a dear memory.stat.
_HIDDEN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What of a cgroup's memory the kernel could take back, in bytes; ``refaults`` counts 4 KiB."""

    inactive_bytes: int
    active_bytes: int
    slab_bytes: int
    unclean_bytes: int
    refaults: int | None

    def reclaimable_bytes(self, *, thrashing: bool) -> int:
        """Clean file cache and slab; the active part doesn't count while it is being read back."""
        active = 0 if thrashing else self.active_bytes
        return max(0, self.inactive_bytes + active + self.slab_bytes - self.unclean_bytes)


def parse_limit(data: bytes) -> tuple[int | None, bool]:
    """A limit file (``memory.max``, ``memory.limit_in_bytes``): (bytes or None for no limit, understood)."""
    if data.strip() == b"max":
        return (None, True)
    # v1's "no limit" may be above 2**63 - 1, where `number` gives up; that still means no limit.
    if data.strip().isdigit() and len(data) <= 21 and int(data) >= NO_LIMIT:
        return (None, True)
    value = number(data)
    return (value, value is not None)


def parse_memory_stat(data: bytes, version: int) -> CacheUse | None:
    """A ``memory.stat`` text: v2 keys, or v1's ``total_`` keys (which include the children, and no slab)."""
    prefix = b"total_" if version == 1 else b""
    dirt = b"" if version == 1 else b"file_"
    inactive, active = keyed(data, prefix + b"inactive_file "), keyed(data, prefix + b"active_file ")
    if inactive is None or active is None:
        return None
    unclean = (keyed(data, prefix + dirt + b"dirty ") or 0) + (
        keyed(data, prefix + dirt + b"writeback ") or 0
    )
    slab = 0 if version == 1 else keyed(data, b"slab_reclaimable ") or 0
    return CacheUse(inactive, active, slab, unclean, refaults(data, prefix))


class RefaultWatch:
    """Whether evicted pages are being read back, judged over half a second and held for two."""

    def __init__(self) -> None:
        self._base: tuple[float, int] | None = None
        self._until = float("-inf")

    def rising(self, count: int | None, now: float) -> bool:
        """Take the running total at ``now``; True while the cache thrashes."""
        if count is None:
            return False
        if self._base is None or count < self._base[1] or now < self._base[0]:
            self._base = (now, count)
        seconds = now - self._base[0]
        if count - self._base[1] >= REFAULT_PAGES_PER_SECOND * max(seconds, _RATE_SECONDS):
            self._until = now + _HOLD_SECONDS
        if seconds >= _RATE_SECONDS:
            self._base = (now, count)
        return now < self._until


@dataclass(frozen=True, slots=True)
class LevelReading:
    """One cgroup: its limit (None for none), what is available below it, or why that is unknown.

    ``cache_bytes`` and ``reread_bytes`` as in `core.model.DomainReading`.
    """

    limit_bytes: int | None = None
    available_bytes: int | None = None
    reason: str = ""
    cache_bytes: int | None = None
    reread_bytes: int = 0


class CgroupLevel:
    """One cgroup directory's files, kept open."""

    def __init__(self, directory: str, version: int, *, highest: bool) -> None:
        self.directory = directory
        self.version = version
        names = ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high")
        self._limits = [KeptFile(f"{directory}/{name}") for name in names]
        use = "memory.usage_in_bytes" if version == 1 else "memory.current"
        self._current = KeptFile(f"{directory}/{use}")
        self._stat = KeptFile(f"{directory}/memory.stat")
        self._highest = highest
        # v2 alone, since Linux 5.19, and only for who may write it.
        self._may_reclaim = version == 2 and may_write(f"{directory}/memory.reclaim")
        self._watch = RefaultWatch()
        self._hidden: list[int] = []
        self._hidden_due_at = float("-inf")
        self.refaults: int | None = None

    def read(self, now: float, ceiling_bytes: int) -> LevelReading:
        """Read this level; a limit of ``ceiling_bytes`` (the host's memory) and more is none."""
        limit, reason = self._limit(now)
        if reason:
            return LevelReading(limit, None, reason)
        if limit is None or limit >= ceiling_bytes:
            return LevelReading()
        current, stat = self._current.read(), self._stat.read()
        used = None if current is None else number(current)
        cache = None if stat is None else parse_memory_stat(stat, self.version)
        if used is None or cache is None:
            unread = self._current if used is None else self._stat
            return LevelReading(limit, None, unread.reason or f"{unread.path}: not understood")
        self.refaults = cache.refaults
        thrashing = self._watch.rising(cache.refaults, now)
        least, most = (
            max(0, limit - max(0, used - cache.reclaimable_bytes(thrashing=counts)))
            for counts in (thrashing, False)
        )
        cache_bytes = cache.active_bytes if thrashing and self._may_reclaim else None
        return LevelReading(limit, least, cache_bytes=cache_bytes, reread_bytes=most - least)

    def _limit(self, now: float) -> tuple[int | None, str]:
        limits: list[int] = []
        reason = ""
        for file in self._limits:
            data = file.read()
            if data is None and file.vanished:  # removed, and perhaps made again under the same name
                data = file.read()
            if data is None:  # the root cgroup has no limit files; a removed cgroup has no directory
                reason = "" if is_directory(self.directory) else file.reason
                continue
            value, understood = parse_limit(data)
            reason = reason if understood else f"{file.path}: not understood"
            if value is not None:
                limits.append(value)
        if self.version == 1 and self._highest and not reason:
            limits += self._hidden_limit(now)
        return (min(limits) if limits else None, reason)

    def _hidden_limit(self, now: float) -> list[int]:
        """v1 tells the limit of ancestors that a container can't see; their use stays unknown."""
        if now >= self._hidden_due_at:
            self._hidden_due_at = now + _HIDDEN_SECONDS
            hidden = keyed(self._stat.read() or b"", b"hierarchical_memory_limit ")
            self._hidden = [hidden] if hidden is not None and hidden < NO_LIMIT else []
        return self._hidden

    def close(self) -> None:
        """Give every descriptor back."""
        for file in (*self._limits, self._current, self._stat):
            file.close()


class CgroupDomain:
    """One server's memory domain: all levels above it, the tightest of which is the reading.

    ``limited`` is False until a limit was seen. OOM kills, refaults and PSI are those of the server's own
    cgroup, whichever level is tightest, so that the running counts never jump from one level to another.
    """

    def __init__(self, place: Place, name: str = CONTAINER) -> None:
        self.place = place
        self.name = name
        self.limited = False
        last = len(place.directories) - 1
        self._levels = [
            CgroupLevel(directory, place.version, highest=i == last)
            for i, directory in enumerate(place.directories)
        ]
        own = place.directories[0] if place.directories else ""
        self._events = KeptFile(f"{own}/{'memory.oom_control' if place.version == 1 else 'memory.events'}")
        self._pressure = KeptFile(place.pressure)

    def read(self, now: float, host_capacity: int | None, host_available: int | None) -> DomainReading | None:
        """One reading, or None where nothing limits this server."""
        reading = self.memory(now, host_capacity, host_available)
        if reading is None or reading.reason:
            return reading
        psi = parse_psi((self._pressure.read() if self.place.pressure else None) or b"")
        return replace(
            reading,
            psi_some_avg10=psi.some_avg10,
            psi_full_avg10=psi.full_avg10,
            oom_kills=keyed(self._events.read() or b"", b"oom_kill "),
        )

    def memory(
        self, now: float, host_capacity: int | None, host_available: int | None
    ) -> DomainReading | None:
        """The part of a reading that a glance needs."""
        ceiling = NO_LIMIT if host_capacity is None else host_capacity
        readings = [level.read(now, ceiling) for level in self._levels]
        limited = [
            (r, level) for r, level in zip(readings, self._levels, strict=True) if r.limit_bytes is not None
        ]
        if not limited:
            gone = next((r.reason for r in readings if r.reason), "")
            return self._unread(gone) if gone and self.limited else None
        self.limited = True
        unread = next((r.reason for r in readings if r.reason), "")
        if unread:
            return self._unread(unread, min(r.limit_bytes or 0 for r, _ in limited) or None)
        tightest, level = min(limited, key=lambda pair: pair[0].available_bytes or 0)
        if not tightest.limit_bytes:
            return self._unread(f"{level.directory}: a limit of 0 bytes")
        available = tightest.available_bytes or 0
        unhurried = min((r.available_bytes or 0) + r.reread_bytes for r, _ in limited)
        if host_available is not None:
            available, unhurried = min(available, host_available), min(unhurried, host_available)
        return DomainReading(
            name=self.name,
            capacity_bytes=tightest.limit_bytes,
            available_bytes=available,
            refaults=self._levels[0].refaults if self._levels[0].refaults is not None else level.refaults,
            path=level.directory,
            cache_bytes=tightest.cache_bytes,
            reread_bytes=unhurried - available or None,
        )

    def _unread(self, reason: str, capacity: int | None = None) -> DomainReading:
        return DomainReading(self.name, capacity, None, reason=reason, path=self.place.directories[0])

    def close(self) -> None:
        """Give every descriptor back."""
        for level in self._levels:
            level.close()
        self._events.close()
        self._pressure.close()
