"""Who holds the memory: containers and units by their cgroups, and by name the processes outside of any.

What counts is anonymous and shared memory: what can't be given back without somebody losing something. Page
cache is left out, so the sums say who has to shrink, not who has read files.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ollama_guard.cgmounts import parse_mounts
from ollama_guard.errors import GuardError

# The largest are told; more would be a list that nobody reads.
TOLD = 8
# Directories and processes looked at: a busy server has some hundreds of each. Levels below the mount.
DIRECTORIES_LIMIT = 4000
PROCESSES_LIMIT = 4000
DEPTH_LIMIT = 16
# Characters of a container's id that people know it by, as `docker ps` shows them.
SHORT_ID = 12
_KIBIBYTE = 1024
_CONTAINER = re.compile(r"(?:(?:docker|libpod|crio|cri-containerd|nerdctl)-)?([0-9a-f]{64})(?:\.scope)?\Z")
_NAMED_CONTAINER = re.compile(r"(?:lxc\.payload\.|machine-)(.+?)(?:\.scope)?\Z")
_UNITS = (".service", ".scope")


class TooLong(GuardError):
    """The look was not over by its deadline."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """One of those who hold memory; ``kind`` is ``container``, ``unit`` or ``process``."""

    name: str
    kind: str
    bytes: int


@dataclass(slots=True)
class _Walk:
    """One walk over a tree: what was found, and how much may still be looked at."""

    deadline_at: float
    stat_keys: tuple[bytes, bytes]
    found: list[Consumer] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    left: int = DIRECTORIES_LIMIT

    def step(self) -> None:
        """Before each thing that is read."""
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.deadline_at:
            raise TooLong("there is too much to look at to know who holds memory in time")


def top(seconds: float, proc: str = "/proc") -> tuple[Consumer, ...]:
    """The largest consumers, the largest first; reads cgroup files and ``/proc/PID/status`` alone.

    Raises:
        TooLong: it would take more than ``seconds``, or more than is sensible to read.
    """
    mounts = parse_mounts(_read(f"{proc}/self/mountinfo"))
    deadline_at = time.monotonic() + seconds
    # Where there is a v1 tree of the memory controller, the v2 tree of a hybrid system has no memory in it.
    mount = min(mounts, key=lambda m: m.version, default=None)
    keys = (b"total_rss", b"total_shmem") if mount and mount.version == 1 else (b"anon", b"shmem")
    walk = _Walk(deadline_at, keys)
    if mount is None:
        pids = [entry.name for entry in Path(proc).iterdir() if entry.name.isdecimal()]
    else:
        _below(mount.point, walk, DEPTH_LIMIT)
        pids = walk.outside
    walk.left = PROCESSES_LIMIT
    everybody = (*walk.found, *_processes(proc, pids, walk))
    return tuple(sorted(everybody, key=lambda one: (-one.bytes, one.name))[:TOLD])


def named(directory: str) -> tuple[str, str] | None:
    """(kind, name) of a cgroup by its directory's name; None where it is neither container nor unit."""
    if match := _CONTAINER.match(directory):
        return "container", match[1][:SHORT_ID]
    if match := _NAMED_CONTAINER.match(directory):
        return "container", _unescaped(match[1])
    return ("unit", directory) if directory.endswith(_UNITS) else None


def _below(path: str, walk: _Walk, depth: int) -> int:
    """Look at a cgroup that is no consumer itself and at those below it; bytes of the consumers found."""
    walk.step()
    walk.outside += _read(f"{path}/cgroup.procs").decode("ascii", "ignore").split()
    return sum(_consumer(child, path, walk, depth) for child in _children(path, depth))


def _consumer(name: str, parent: str, walk: _Walk, depth: int) -> int:
    """The bytes of a cgroup, if it is a consumer; nested units hold their own, except in a container."""
    path, title = f"{parent}/{name}", named(name)
    if title is None:
        return _below(path, walk, depth - 1)
    walk.step()
    kind, called = title
    held = _held(path, walk.stat_keys)
    nested = 0 if kind == "container" else _nested(path, walk, depth - 1)
    walk.found.append(Consumer(called, kind, max(0, held - nested)))
    return held


def _nested(path: str, walk: _Walk, depth: int) -> int:
    """Bytes of units and containers somewhere inside a unit, as in ``user@1000.service``."""
    total = 0
    for child in _children(path, depth):
        if named(child) is None:
            walk.step()
            total += _nested(f"{path}/{child}", walk, depth - 1)
        else:
            total += _consumer(child, path, walk, depth)
    return total


def _children(path: str, depth: int) -> list[str]:
    if depth <= 0:
        return []
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _held(path: str, keys: tuple[bytes, bytes]) -> int:
    lines = (line.split() for line in _read(f"{path}/memory.stat").splitlines())
    values = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
    return sum(values.get(key, 0) for key in keys)


def _processes(proc: str, pids: Iterable[str], walk: _Walk) -> list[Consumer]:
    """Processes by the name of their program: all anonymous memory, and the most that one of them shares."""
    anonymous: dict[str, int] = {}
    shared: dict[str, int] = {}
    for pid in pids:
        walk.step()
        name, anon, shmem = _status(_read(f"{proc}/{pid}/status"))
        anonymous[name] = anonymous.get(name, 0) + anon
        shared[name] = max(shared.get(name, 0), shmem)
    sums = {name: anonymous[name] + shared[name] for name in anonymous}
    return [Consumer(name, "process", size) for name, size in sums.items() if size]


def _status(text: bytes) -> tuple[str, int, int]:
    """(name, anonymous bytes, shared bytes); zeros for kernel threads and those that are gone."""
    found = dict(line.split(b":\t", 1) for line in text.splitlines() if b":\t" in line)
    sizes = [found.get(key, b"0").split() for key in (b"RssAnon", b"RssShmem")]
    anon, shmem = (int(words[0]) * _KIBIBYTE if words and words[0].isdigit() else 0 for words in sizes)
    return found.get(b"Name", b"?").decode("utf-8", "backslashreplace"), anon, shmem


def _read(path: str) -> bytes:
    """A small file of the kernel's; empty where it is gone or may not be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 - a thousand times in a row
        return file.read(1 << 20)
    return b""


def _unescaped(name: str) -> str:
    r"""The name without systemd's escapes: it writes a dash as ``\x2d``."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)
