"""What `init` and `doctor` read of a server's surroundings: its cgroup's limits, and what it sees of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.core.machine import NO_BOUND_BYTES
from ollama_guard.core.model import LoadedModel
from ollama_guard.core.said import since
from ollama_guard.sentinel.sensors.cgroup import parse_limit
from ollama_guard.sentinel.sensors.cgtree import CgroupTrees

PROC = "/proc"
CGROUPS = "/sys/fs/cgroup"
_LIMIT_FILES = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}
_SWAP_FILES = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}
# The first Ollama that reads the limit of a cgroup: memory.max at the root of its own v2 tree (facts 0, 3.1).
_READS_LIMIT_SINCE = (0, 13)
# What drivers make where a GPU can be computed on; a screen's alone (/dev/dri) is not used unless asked for.
_GPU_DEVICES = ("nvidia0", "nvidiactl")
# AMD's driver makes this also for graphics inside of a processor, most of which Ollama can't compute on.
_MAYBE_GPU_DEVICE = "kfd"


@dataclass(frozen=True, slots=True)
class CgroupFacts:
    """Of its cgroup and those above: fields as in `core.machine.Server`."""

    version: int = 0
    directory: str = ""
    limit_bytes: int | None = None
    high_bytes: int | None = None
    swap_limited: bool | None = None
    swap_allowed_bytes: int | None = None


def cgroup_facts(pid: int, proc: str = PROC, cgroups: str = CGROUPS) -> CgroupFacts:
    """The limits that hold for a process; nothing where its cgroup can't be found."""
    try:
        membership = Path(proc, str(pid), "cgroup").read_bytes()
    except OSError:
        return CgroupFacts()
    place = CgroupTrees(proc, cgroups).place(membership)
    if not place.directories:
        return CgroupFacts()
    limits = [
        limit
        for directory in place.directories
        for name in _LIMIT_FILES[place.version]
        if (limit := _limit(directory, name)) is not None
    ]
    highs = [limit for directory in place.directories if (limit := _limit(directory, "memory.high"))]
    swap = _SWAP_FILES[place.version]
    return CgroupFacts(
        place.version,
        place.directories[0],
        min(limits, default=None),
        min(highs, default=None),
        Path(place.directories[0], swap).exists(),
        _swap_allowed(place.directories, place.version),
    )


def _swap_allowed(directories: tuple[str, ...], version: int) -> int | None:
    """The least of all levels; v1 bounds memory and swap together, so its limit of memory goes off."""
    allowed = []
    for directory in directories:
        if not Path(directory, _SWAP_FILES[version]).exists():
            continue  # the root has none, and a kernel that does not count swap has none anywhere
        both = _limit(directory, _SWAP_FILES[version])
        beside = _limit(directory, _LIMIT_FILES[version][0]) if version == 1 else 0
        allowed.append(NO_BOUND_BYTES if both is None else max(0, both - (beside or 0)))
    return min(allowed, default=None)


def _limit(directory: str, name: str) -> int | None:
    with contextlib.suppress(OSError):
        limit, _ = parse_limit(Path(directory, name).read_bytes())
        return limit
    return None


def sees_limit(pid: int, limit_bytes: int | None, version: str | None, proc: str = PROC) -> bool | None:
    """Whether Ollama reads that limit where it looks: at the root of the cgroup tree that it can see.

    None where there is no limit, or it may not be looked at with its eyes.
    """
    if limit_bytes is None:
        return None
    reads = since(version, _READS_LIMIT_SINCE)
    if not reads:
        return reads
    try:
        seen, _ = parse_limit(Path(proc, str(pid), "root/sys/fs/cgroup/memory.max").read_bytes())
    except PermissionError:
        return None
    except OSError:
        return False
    return seen == limit_bytes


def has_gpu(
    pid: int,
    environment: Mapping[str, str] | None,
    loaded: Sequence[LoadedModel],
    proc: str = PROC,
    machines: Path = Path("/dev"),
) -> bool | None:
    """Whether a GPU is there for it; where its own folders may not be seen, those of the machine count.

    None where that can't be told: of /dev/kfd alone only a loaded model tells whether it is used.
    """
    devices = _devices(Path(proc, str(pid), "root/dev")) or _devices(machines)
    if any(device in devices for device in _GPU_DEVICES):
        return True
    if "dri" in devices and (environment or {}).get("OLLAMA_VULKAN", "0") not in ("", "0"):
        return True
    if _MAYBE_GPU_DEVICE not in devices:
        return False
    told = [model.vram_bytes for model in loaded if model.vram_bytes is not None]
    return any(told) if told else None


def _devices(folder: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return {path.name for path in folder.iterdir()}
    return set()
