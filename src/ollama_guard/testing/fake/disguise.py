"""Gives this process the command line and the name of another program.

``/proc/PID/cmdline`` shows the memory between the kernel's ``arg_start`` and ``arg_end``. They are
moved to a buffer of ours with ``PR_SET_MM_MAP``, which needs no capability as long as the executable
stays (prctl(2)); the result is exact to the byte, without padding.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

_PR_SET_NAME = 15
_PR_SET_MM = 35
_PR_SET_MM_MAP = 14
_NO_EXE_FD = 0xFFFFFFFF

_FIELDS = {  # of struct prctl_mm_map, each with its field number in proc_pid_stat(5)
    "start_code": 26,
    "end_code": 27,
    "start_data": 45,
    "end_data": 46,
    "start_brk": 47,
    "brk": 0,
    "start_stack": 28,
    "arg_start": 48,
    "arg_end": 49,
    "env_start": 50,
    "env_end": 51,
    "auxv": 0,
}


class _MemoryMap(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in _FIELDS),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p
_kept: list[ctypes.Array[ctypes.c_char]] = []  # the kernel reads these buffers for as long as we live


def disguise(argv: Sequence[str], comm: str) -> None:
    """Show ``argv`` as the command line and ``comm`` (cut to 15 bytes) as the name of this process.

    Raises:
        OSError: the kernel refused (built without CONFIG_CHECKPOINT_RESTORE).
    """
    text = b"\0".join(os.fsencode(word) for word in argv) + b"\0"
    buffer = ctypes.create_string_buffer(text, len(text))
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123 - one read, no Path
        fields = stat.read().rpartition(")")[2].split()
    values = {name: int(fields[number - 3]) for name, number in _FIELDS.items() if number}
    values["brk"] = _libc.sbrk(0)
    values["arg_start"] = ctypes.addressof(buffer)
    values["arg_end"] = values["arg_start"] + len(text)
    layout = _MemoryMap(**values, auxv=0, auxv_size=0, exe_fd=_NO_EXE_FD)
    _prctl(_PR_SET_NAME, comm.encode(), 0, 0)  # first, as in an exec
    _prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(layout), ctypes.sizeof(layout))
    _kept.append(buffer)


def _prctl(option: int, *arguments: object) -> None:
    if _libc.prctl(option, *arguments, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
