"""The host's memory, from /proc/meminfo, /proc/vmstat, /proc/pressure/memory and ZFS' arcstats."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ollama_guard.core.model import HOST, DomainReading
from ollama_guard.sentinel.sensors.files import KeptFile, keyed, keyed_kib, number, refaults, slurp
from ollama_guard.sentinel.sensors.psi import Psi, parse_psi

_ARC_LINE = re.compile(rb"^(size|c_min|m[rf]u_evictable_(?:meta)?data)\s+\d+\s+(\d{1,20})$", re.MULTILINE)
_ARC_EVICTABLE = (
    b"mru_evictable_data",
    b"mru_evictable_metadata",
    b"mfu_evictable_data",
    b"mfu_evictable_metadata",
)


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes; ``available_bytes`` is None with a ``reason`` when it was missing or absurd."""

    capacity_bytes: int | None
    available_bytes: int | None
    swap_free_bytes: int | None
    reason: str = ""


def parse_meminfo(data: bytes, arc_bytes: int = 0) -> HostMemory:
    """Judge a /proc/meminfo text; ``arc_bytes`` is ZFS cache that the kernel doesn't count as available.

    Absurd swap (lxcfs prints SwapFree near 2**64) is None and never spoils the memory beside it.
    """
    total, available = keyed_kib(data, b"MemTotal:"), keyed_kib(data, b"MemAvailable:")
    swap_total, swap_free = keyed_kib(data, b"SwapTotal:"), keyed_kib(data, b"SwapFree:")
    if swap_free is not None and (swap_total is None or swap_free > swap_total):
        swap_free = None
    if not total:
        return HostMemory(None, None, swap_free, "MemTotal is missing or absurd")
    if available is None:
        return HostMemory(total, None, swap_free, "MemAvailable is missing or absurd")
    if available > total:
        reason = f"MemAvailable ({available} bytes) is larger than MemTotal ({total} bytes)"
        return HostMemory(total, None, swap_free, reason)
    return HostMemory(total, min(available + arc_bytes, total), swap_free)


def parse_arcstats(data: bytes) -> int:
    """Bytes of ZFS' cache that it gives back under pressure; 0 if that can't be told.

    MemAvailable doesn't count the ARC at all (openzfs/zfs issue 10255), so this is to be *added*. It never
    shrinks below ``c_min``, and buffers in use can't go: min(size - c_min, evictable) is what OpenZFS' own
    shrinker offers (module/os/linux/zfs/arc_os.c, arc_evictable_memory).
    """
    found = {key: number(value) for key, value in _ARC_LINE.findall(data)}
    size, least = found.get(b"size"), found.get(b"c_min")
    if size is None or least is None:
        return 0
    reclaimable = max(0, size - least)
    evictable = [found.get(key) for key in _ARC_EVICTABLE]
    known = [part for part in evictable if part is not None]
    return min(reclaimable, sum(known)) if len(known) == len(_ARC_EVICTABLE) else reclaimable


def is_container_view(mountinfo: bytes, meminfo_path: bytes = b"/proc/meminfo") -> bool:
    """Whether /proc/meminfo is a stand-in (lxcfs, a bind mount): ZFS' ARC is then not part of it."""
    return any(
        len(fields) > 4 and fields[4] == meminfo_path
        for fields in (line.split() for line in mountinfo.split(b"\n"))
    )


class Host:
    """The host's files, kept open."""

    def __init__(self, proc: str) -> None:
        self._meminfo = KeptFile(f"{proc}/meminfo")
        self._vmstat = KeptFile(f"{proc}/vmstat")
        self._pressure = KeptFile(f"{proc}/pressure/memory")
        self._arcstats = KeptFile(f"{proc}/spl/kstat/zfs/arcstats")
        self.container_view = is_container_view(slurp(f"{proc}/self/mountinfo") or b"")
        self.has_arc = not self.container_view and self._arcstats.read() is not None

    @property
    def pressure_path(self) -> str:
        """The PSI file on which a trigger can be set."""
        return self._pressure.path

    def read(self) -> DomainReading:
        """One reading of the host as a domain; ``refaults`` counts what of files was read back, in 4 KiB."""
        memory = self.memory()
        psi = self.pressure()
        vmstat = self._vmstat.read() or b""
        return DomainReading(
            name=HOST,
            capacity_bytes=memory.capacity_bytes,
            available_bytes=memory.available_bytes,
            reason=memory.reason,
            psi_some_avg10=psi.some_avg10,
            psi_full_avg10=psi.full_avg10,
            oom_kills=keyed(vmstat, b"oom_kill "),
            refaults=refaults(vmstat),
            swap_free_bytes=memory.swap_free_bytes,
        )

    def memory(self) -> HostMemory:
        """The part of a reading that a glance needs."""
        data = self._meminfo.read()
        arc = (self._arcstats.read() or b"") if self.has_arc else b""
        if data is None:
            return HostMemory(None, None, None, self._meminfo.reason)
        return parse_meminfo(data, parse_arcstats(arc))

    def pressure(self) -> Psi:
        """The host's PSI; all None where the kernel has none."""
        return parse_psi(self._pressure.read() or b"")

    def close(self) -> None:
        """Give every descriptor back."""
        for file in (self._meminfo, self._vmstat, self._pressure, self._arcstats):
            file.close()
