"""A cgroup whose processes can be frozen, as `docker pause` and `systemctl freeze` do it."""

import itertools
import os
from pathlib import Path
from typing import Self

from beds import BedUnavailable

_V1, _V2 = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup")
_serial = itertools.count()


class Freezer:
    """A new cgroup; leaving it thaws what is inside, puts it into the root cgroup and removes the cgroup.

    On v1 a frozen process is in state D and outlives SIGKILL until it thaws; on v2 it can be killed.
    """

    def __init__(self) -> None:
        self.is_v1 = _V1.is_dir()
        self._root = _V1 if self.is_v1 else _V2
        self._folder = self._root / f"ollama-guard-freezer-{os.getpid()}-{next(_serial)}"

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir()
        except OSError as problem:
            raise BedUnavailable(f"no cgroup can be made here: {problem}") from problem
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        for pid in (self._folder / "cgroup.procs").read_text().split():
            (self._root / "cgroup.procs").write_text(pid)
        self._folder.rmdir()

    def take(self, pid: int) -> None:
        """Move a process in."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def freeze(self) -> None:
        """Freeze all that is inside."""
        self._write("FROZEN", "1")

    def thaw(self) -> None:
        """Let it go on."""
        self._write("THAWED", "0")

    def _write(self, v1: str, v2: str) -> None:
        file = "freezer.state" if self.is_v1 else "cgroup.freeze"
        (self._folder / file).write_text(v1 if self.is_v1 else v2)
