"""This process among others: whose child it is, what it inherited, how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from pathlib import Path

# prctl(2): the signal that the kernel sends when the parent dies.
_PR_SET_PDEATHSIG = 1
# mallopt(3): how many heaps the C library may open for threads; each holds on to what it once had.
_M_ARENA_MAX = -8
_ARENAS = 1
# Bytes of stack per thread; the default reserves 8 MiB, which counts against a strict address space limit.
_STACK_BYTES = 256 * 1024


def die_with_parent(parent: int) -> bool:
    """Be killed when the parent dies; False if it already has (its PID is not ``parent`` any more)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.mallopt(_M_ARENA_MAX, _ARENAS)
    return os.getppid() == parent


def shed_inheritance() -> None:
    """Be an ordinary process again: the sentinel's priority, OOM protection and blocked signals are its own.

    Raising the nice value and the OOM score is always allowed, lowering them isn't; what is refused
    was not inherited from a privileged sentinel.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0", encoding="ascii")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # On a terminal these reach the whole group; the sentinel alone decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.stack_size(_STACK_BYTES)
