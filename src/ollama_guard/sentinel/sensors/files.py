"""Kernel files read with one `pread` on a descriptor that stays open, and numbers taken out of them.

Nothing here raises: a file that can't be read gives None and says why, a number that is absent, cut off or
absurd gives None.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

# Bytes of one read. The longest files on the tick are memory.stat (3 KiB) and vmstat (5 KiB).
READ_LIMIT = 16 * 1024
# Bytes of a whole file read once (mountinfo of a host with hundreds of containers).
SLURP_LIMIT = 1024 * 1024
# The kernel prints 64-bit numbers: 20 digits at most. Values from 2**63 up are underflows, not sizes.
_DIGITS = 20
ABSURD = 2**63
# How many pages of 4 KiB one of this machine is: the kernel counts its own, of 16 or 64 KiB on some machines.
SMALL_PAGES = os.sysconf("SC_PAGE_SIZE") // 4096

_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class KeptFile:
    """One kernel file, opened at its first read and kept open; opened anew after an error.

    The descriptor of a dead process' file, or of a removed cgroup's, fails with ESRCH or ENODEV and never
    shows the next owner of the name, which is what makes keeping it safer than opening it again.
    """

    __slots__ = ("_fd", "path", "reason", "vanished")

    def __init__(self, path: str) -> None:
        self.path = path
        self.reason = ""
        self.vanished = False
        self._fd = -1

    def read(self) -> bytes | None:
        """The file's content, up to `READ_LIMIT` bytes, or None with ``reason`` set.

        ``vanished`` says that what the open descriptor spoke of is gone; the name may have a new owner.
        """
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, _OPEN_FLAGS)
            data = os.pread(self._fd, READ_LIMIT, 0)
        except (OSError, ValueError) as problem:
            self.reason = f"{self.path}: {why(problem)}"
            self.vanished = self._fd >= 0
            self.close()
            return None
        self.reason = ""
        self.vanished = False
        return data

    def close(self) -> None:
        """Give the descriptor back; the next read opens the file again."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def slurp(path: str, limit: int = SLURP_LIMIT) -> bytes | None:
    """A whole file, opened for this read alone, at most ``limit`` bytes; None if it can't be read."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except (OSError, ValueError):
        return None
    parts: list[bytes] = []
    size = 0
    try:
        while size < limit and (part := os.read(fd, min(READ_LIMIT, limit - size))):
            parts.append(part)
            size += len(part)
    except OSError:
        return None
    finally:
        os.close(fd)
    return b"".join(parts)


def is_directory(path: str) -> bool:
    """Whether ``path`` is a directory that can be looked at."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116  pathlib costs memory and time on the tick
    except (OSError, ValueError):
        return False


def may_write(path: str) -> bool:
    """Whether a kernel file can be opened for writing, which heeds read-only mounts, rights and profiles."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except (OSError, ValueError):
        return False
    return True


def names_in(directory: str) -> list[str]:
    """The names in a directory; none if it can't be read."""
    try:
        return os.listdir(directory)  # noqa: PTH208  as is_directory
    except (OSError, ValueError):
        return []


def number(text: bytes) -> int | None:
    """A decimal number as the kernel prints it, below 2**63; None for anything else."""
    text = text.strip()
    if not text.isdigit() or len(text) > _DIGITS:
        return None
    value = int(text)
    return value if value < ABSURD else None


def keyed(data: bytes, key: bytes) -> int | None:
    """The number on the line that starts with ``key`` (separator included); None if absent or cut off."""
    start, end = _value(data, key)
    return number(data[start:end]) if end > 0 else None


def keyed_kib(data: bytes, key: bytes) -> int | None:
    """The bytes on the line ``<key> <number> kB``; None if absent, cut off, or 2**63 and more."""
    start, end = _value(data, key)
    if end <= 0 or not data.endswith(b" kB", start, end):
        return None
    value = number(data[start : end - 3])
    return None if value is None or value * 1024 >= ABSURD else value * 1024


def refaults(data: bytes, prefix: bytes = b"", small_pages: int = SMALL_PAGES) -> int | None:
    """How much page cache was read back after its eviction, in 4 KiB, by a vmstat or memory.stat text."""
    count = keyed(data, prefix + b"workingset_refault_file ")
    if count is None:  # before Linux 5.9
        count = keyed(data, prefix + b"workingset_refault ")
    return None if count is None else count * small_pages


def _value(data: bytes, key: bytes) -> tuple[int, int]:
    """Where the text after ``key`` begins and its line ends; the end is -1 if either is missing."""
    at = 0 if data.startswith(key) else data.find(b"\n" + key) + 1
    if at == 0 and not data.startswith(key):
        return (0, -1)
    return (at + len(key), data.find(b"\n", at + len(key)))


def why(problem: Exception) -> str:
    """An exception of the operating system in its own words, without its number."""
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
