"""A memory-limited cgroup without swap, on v1, v2 and hybrid trees."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from beds import BedUnavailable
from beds.process import Started, launch

REMOVAL_SECONDS = 10.0
"""A killed process leaves its cgroup when its memory is freed: about 0.1 s a GiB, so this is ample."""

_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 70; shift; done; shift; exec "$@"'
_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Trees:
    """Where this machine's cgroup trees are mounted, each with the path of its mounted root."""

    v1_memory: Path | None
    v2: Path | None

    @property
    def v2_limits_memory(self) -> bool:
        """Whether memory limits are made in the v2 tree (v1 holds the controller on hybrid machines)."""
        if self.v2 is None or self.v1_memory is not None:
            return False
        return "memory" in (self.v2 / "cgroup.controllers").read_text().split()


def find_trees() -> Trees:
    """Read the cgroup mounts of this process from /proc/self/mountinfo."""
    v1_memory = v2 = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(before.split()[4])
        kind, _, options = after.split()[:3]
        if kind == "cgroup2" and v2 is None:
            v2 = mount_point
        elif kind == "cgroup" and "memory" in options.split(","):
            v1_memory = mount_point
    return Trees(v1_memory, v2)


class MemoryCgroup:
    """A new cgroup at the root of the tree that holds at most `limit_bytes`, and no swap at all.

    On hybrid machines a twin in the v2 tree is made as well, for its `memory.pressure` file.
    Leaving the context kills what still runs inside, then removes it.
    """

    def __init__(self, limit_bytes: int, name: str = "bed") -> None:
        self.limit = limit_bytes
        self.name = f"ollama-guard-{name}-{os.getpid()}-{next(_serial)}"
        self._trees = find_trees()
        if os.geteuid() != 0:
            raise BedUnavailable("a memory cgroup needs root")
        if self._trees.v1_memory is None and not self._trees.v2_limits_memory:
            raise BedUnavailable("no cgroup tree with a memory controller is mounted here")
        self.v1 = None if self._trees.v1_memory is None else self._trees.v1_memory / self.name
        self.v2 = None if self._trees.v2 is None else self._trees.v2 / self.name

    @property
    def path(self) -> Path:
        """The directory that holds the limit."""
        path = self.v1 or self.v2
        assert path is not None
        return path

    @property
    def is_v1(self) -> bool:
        """Whether the limit is a v1 one."""
        return self.v1 is not None

    @property
    def join_paths(self) -> tuple[Path, ...]:
        """The files that a process writes its PID to in order to live here."""
        return tuple(path / "cgroup.procs" for path in (self.v1, self.v2) if path is not None)

    @property
    def pressure_path(self) -> Path | None:
        """The cgroup's own PSI file, or None where the kernel has none."""
        path = None if self.v2 is None else self.v2 / "memory.pressure"
        return path if path is not None and path.exists() else None

    def __enter__(self) -> Self:
        try:
            if self.v1 is None and self._trees.v2 is not None:
                (self._trees.v2 / "cgroup.subtree_control").write_text("+memory")
            for path in filter(None, (self.v1, self.v2)):
                path.mkdir()
            self.set_limit(self.limit)
        except OSError as problem:
            self.__exit__()
            raise BedUnavailable(f"no memory cgroup can be made here: {problem}") from problem
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        for path in filter(None, (self.v1, self.v2)):
            remove_tree(path)

    def set_limit(self, limit_bytes: int) -> None:
        """Limit memory, and memory plus swap to the same, so that nothing can be swapped out."""
        if self.v1 is None:
            (self.path / "memory.max").write_text(str(limit_bytes))
            self._write_if_there("memory.swap.max", "0")
            self.limit = limit_bytes
            return
        # The kernel refuses memsw < limit: raise memsw out of the way first.
        self._write_if_there("memory.memsw.limit_in_bytes", "-1")
        (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))
        self.limit = limit_bytes
        self._write_if_there("memory.memsw.limit_in_bytes", str(limit_bytes))

    def _write_if_there(self, name: str, value: str) -> None:
        """Swap accounting is a kernel option: without its file there is nothing to limit."""
        if (self.path / name).exists():
            (self.path / name).write_text(value)

    def add(self, pid: int) -> None:
        """Move a process in. What it has already taken stays charged where it was (v1)."""
        for path in self.join_paths:
            path.write_text(str(pid))

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
        """Start a program that is inside from its first instruction on (a `Launcher`)."""
        started = launch(self.joining(argv), env=env, **kwargs)
        while started.poll() is None and started.pid not in self.pids():
            time.sleep(0.001)  # the shell before the program is on its way in
        return started

    def joining(self, argv: Sequence[str]) -> list[str]:
        """`argv` behind a shell line that joins this cgroup and then becomes the program."""
        return ["/bin/sh", "-c", _JOIN, "join", *map(str, self.join_paths), "--", *argv]

    def usage(self) -> int:
        """Bytes charged now, page cache included."""
        return int((self.path / ("memory.usage_in_bytes" if self.is_v1 else "memory.current")).read_text())

    def stat(self) -> dict[str, int]:
        """memory.stat as it stands (v1: `total_*` keys count descendants)."""
        lines = (self.path / "memory.stat").read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}

    def available(self) -> int:
        """Bytes that a program here can still take: the limit minus all that can't be reclaimed."""
        stat = self.stat()
        prefix = "total_" if self.is_v1 else ""
        cache = stat[f"{prefix}inactive_file"] + stat[f"{prefix}active_file"]
        return self.limit - self.usage() + cache

    def oom_kills(self) -> int:
        """Processes that the kernel's OOM killer ended here or below."""
        if not self.is_v1:
            return _counter(self.path / "memory.events", "oom_kill")
        # v1 counts a kill in the victim's own cgroup only.
        return sum(_counter(path, "oom_kill") for path in self.path.rglob("memory.oom_control"))

    def pids(self) -> list[int]:
        """Every process here or below."""
        return sorted({pid for path in filter(None, (self.v1, self.v2)) for pid in _pids(path)})

    def kill_all(self) -> None:
        """SIGKILL everything inside, by PID, until nothing is left."""
        deadline = time.monotonic() + REMOVAL_SECONDS
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _pids(path: Path) -> set[int]:
    found: set[int] = set()
    for procs in path.rglob("cgroup.procs") if path.exists() else ():
        with contextlib.suppress(OSError):
            found.update(map(int, procs.read_text().split()))
    # 0 is a process of another PID namespace: it has no number here.
    return found - {0}


def _counter(path: Path, key: str) -> int:
    fields = dict(line.split() for line in path.read_text().splitlines())
    return int(fields[key])


def remove_tree(path: Path) -> None:
    """Remove a cgroup and those below it; a dying process may keep it busy for a moment."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    while path.exists():
        try:
            for below in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                below.rmdir()
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
