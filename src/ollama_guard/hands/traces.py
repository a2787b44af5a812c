"""The files of the flight recorder: named in order, never overwritten, the oldest removed first.

Every call here may take as long as the disk likes: they belong into a lane.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from ollama_guard.errors import ServiceUnavailable

# The number gives the order: a machine without a battery clock starts each day in 1970.
_NAME = re.compile(r"trace-(\d{6,12})-\d{8}T\d{6}Z\.jsonl")
# More files than this are not kept, however small: a guard that is restarted again and again makes many.
FILES_LIMIT = 1000


def trace_files(folder: Path) -> list[Path]:
    """The traces of a folder, oldest first.

    Raises:
        OSError: the folder can't be read.
    """
    named = [(int(found[1]), path) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named)]


class TraceFile:
    """One open file. Whatever fails in it raises ServiceUnavailable; then it is closed and of no more use."""

    def __init__(self, folder: Path, older_bytes: int, wall: float) -> None:
        """Make the next file of a folder, whose older ones may keep ``older_bytes``; ``wall`` names it."""
        self.size = 0
        self._unsynced = False
        self._folder = folder
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            older = trace_files(folder)
            _prune(older, older_bytes)
            number = int(older[-1].name.split("-")[1]) + 1 if older else 1
            stamp = datetime.fromtimestamp(max(wall, 0.0), UTC).strftime("%Y%m%dT%H%M%SZ")
            self.path = folder / f"trace-{number:06}-{stamp}.jsonl"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o640)
        except OSError as problem:
            raise ServiceUnavailable(f"can't begin a trace in {folder}: {problem.strerror}") from problem
        self._file = io.FileIO(descriptor, "w")

    def __del__(self) -> None:
        """A thread that comes back late from a dead disk is the last to have the file, and closes it."""
        with contextlib.suppress(AttributeError, OSError):
            self._file.close()

    def write(self, text: str) -> None:
        """Append whole lines."""
        rest = memoryview(text.encode("ascii"))
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as problem:
            self._give_up(problem)
        self._unsynced = True
        self.size += len(text)

    def sync(self) -> None:
        """Have what was written outlast a power cut."""
        if not self._unsynced:
            return
        try:
            os.fdatasync(self._file.fileno())
            with contextlib.suppress(OSError):  # not every file system can do this for a folder
                _sync_folder(self._folder)
        except OSError as problem:
            self._give_up(problem)
        self._unsynced = False

    def close(self) -> None:
        """Sync, and close; once closed, nothing."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _give_up(self, problem: OSError) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        if not self.size:  # not even its header
            with contextlib.suppress(OSError):
                self.path.unlink()
        raise ServiceUnavailable(f"can't write {self.path}: {problem.strerror}") from problem


def _prune(older: list[Path], keep_bytes: int) -> None:
    """Remove the oldest files until the rest is small enough; what can't be removed stays."""
    sizes = {}
    for path in older:
        with contextlib.suppress(OSError):
            sizes[path] = path.lstat().st_size
    total, count = sum(sizes.values()), len(sizes)
    for path, size in sizes.items():
        if total <= keep_bytes and count < FILES_LIMIT:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total, count = total - size, count - 1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
