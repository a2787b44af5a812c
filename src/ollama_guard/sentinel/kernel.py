"""The few system calls that Python 3.11 has no name for: mlockall, prctl, process_mrelease.

ctypes is used here and nowhere else. Each call returns "" or says in words why it was refused.
"""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4
# The number is the same on every architecture, since it is younger than the unified table (Linux 5.15).
_SYS_PROCESS_MRELEASE = 448


def lock_memory() -> str:
    """Lock every page that is or becomes resident (mlockall CURRENT|FUTURE|ONFAULT); "" or why not."""
    return _said(_LIBC.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT))


def die_with_parent(signum: int) -> None:
    """Have the kernel send ``signum`` to this process when its parent dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def name_process(name: str) -> None:
    """Set this process' comm (cut to 15 bytes by the kernel)."""
    _LIBC.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def process_mrelease(pidfd: int) -> int:
    """Free the memory of a dying process in the caller's own time; returns 0 or an errno."""
    if _LIBC.syscall(_SYS_PROCESS_MRELEASE, pidfd, 0) == 0:
        return 0
    return ctypes.get_errno()


def _said(result: int) -> str:
    return "" if result == 0 else os.strerror(ctypes.get_errno())
