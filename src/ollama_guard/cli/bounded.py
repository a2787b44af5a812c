"""What others hold, read within a deadline: where a disk hangs, or a process, a plain read never ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ollama_guard.settings.deadline import within

# Seconds for one file: it takes a millisecond, and on a disk that spins up a second.
READ_SECONDS = 2.0
# Bytes of one file: what people write by hand is a hundredth of this.
MOST_BYTES = 1 << 20


def read_within(path: Path, seconds: float = READ_SECONDS) -> str:
    """The text of a file that somebody named; what is no UTF-8 in it is replaced.

    Only a regular file is opened: opening a device (a watchdog's) or a pipe does something to it.

    Raises:
        OSError: it can't be read, is no regular file, is larger than `MOST_BYTES`, or did not come in time
            (TimeoutError).
    """
    return in_time(lambda: _of_regular(path), seconds)


def _of_regular(path: Path) -> str:
    there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    found = os.fstat(there)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    if not found.st_size:
        return ""  # also the kernel's own, of which some lose what is read of them (/proc/kmsg)
    with Path(f"/proc/self/fd/{there}").open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise OSError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return raw.decode("utf-8", "replace")


def argv_holds(process: Path, part: bytes, unknown: dict[str, str], what: str) -> bool:
    """Whether the command line of a process (its folder in /proc) holds these bytes; False where it is gone.

    As its ``environ`` that lies in the memory of the process itself: one that is stuck holds the reader up.
    One that does not come in time is told in ``unknown``, under ``what``.
    """

    def held() -> str:
        return "yes" if part in head(process / "cmdline", MOST_BYTES) else ""

    try:
        return in_time(held) == "yes"
    except TimeoutError as error:
        unknown[what] = f"the command line of process {process.name}: {why(error)}"
    except OSError:
        pass  # it is gone
    return False


def head(path: Path, most_bytes: int) -> bytes:
    """The first bytes of a file, without any bound in time."""
    with path.open("rb") as file:
        return file.read(most_bytes)


def is_same_within(one: Path, other: Path, seconds: float = READ_SECONDS) -> bool:
    """Whether two paths lead to one file; False where one leads nowhere, or that can't be told in time."""
    try:
        return in_time(lambda: "yes" if one.samefile(other) else "", seconds) == "yes"
    except OSError:
        return False


def in_time(function: Callable[[], str], seconds: float = READ_SECONDS) -> str:
    """What a function reads, which is called in a child process.

    Raises:
        OSError: as the function does, or it did not end in time (TimeoutError).
    """
    try:
        return within(seconds, function)
    except TimeoutError:
        raise TimeoutError(f"it could not be read within {seconds:.0f} s") from None


def why(error: OSError) -> str:
    """The reason as a sentence says it."""
    return error.strerror or str(error)
