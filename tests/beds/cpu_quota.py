"""Less of a core for a program that would take all of it, so that a long answer costs others little."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

_TREE = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000
LONG_ANSWER_CORE = 0.2
"""For an answer of 5 minutes: 8 tokens a second, and 20 times what a guard takes for being idle (cores)."""

_serial = itertools.count()


@contextlib.contextmanager
def cpu_quota(pid: int, share: float) -> Iterator[bool]:
    """Give a process, with its threads, this share of one core; yields whether that could be done.

    It can be where the controller has a tree of its own (v1). Elsewhere a process would have to leave the
    cgroup that limits its memory, so it stays as quick as it is, which does a test no harm.
    """
    folder = _TREE / f"ollama-guard-quota-{os.getpid()}-{next(_serial)}"
    try:
        folder.mkdir()
    except OSError:
        yield False
        return
    try:
        (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)))
        (folder / "cgroup.procs").write_text(str(pid))
        yield True
    finally:
        for inside in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                (_TREE / "cgroup.procs").write_text(inside)
        folder.rmdir()
