"""Attaches to a process as a debugger does, holds it still, and lets it go when its standard input ends.

    python -I -S tests/beds/tracer.py PID

It prints a line when every thread is held.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int) -> None:
    if _LIBC.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(pid: int) -> None:
    """Hold every thread; one that is born meanwhile is held too."""
    held: set[int] = set()
    while new := {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - held:
        for thread in new:
            _ptrace(_SEIZE, thread)
            _ptrace(_INTERRUPT, thread)
        held |= new
        time.sleep(0.1)
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.read()  # the kernel lets go of everything when this process ends


if __name__ == "__main__":
    main(int(sys.argv[1]))
