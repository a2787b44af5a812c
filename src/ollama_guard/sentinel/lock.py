"""One guard per runtime directory: a lock on ``R/lock`` with the owner's PID inside."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class AlreadyRunning(Exception):
    """Another guard holds the lock of this runtime directory."""


def take(path: Path) -> int:
    """Take the lock for the life of this process; returns the descriptor to keep open.

    It is a POSIX record lock: a forked child does not inherit it, so no child that is stuck in the
    kernel can keep the next guard from starting.

    Raises:
        AlreadyRunning: another guard holds it.
        OSError: the file can't be opened or locked.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # EAGAIN or EACCES, as fcntl(2) has it
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise AlreadyRunning(
            f"another ollama-guard (PID {owner}) already guards with the runtime directory {path.parent}"
        ) from error
    with suppress(OSError):  # a full /run: the lock is what counts, the PID is for people
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
