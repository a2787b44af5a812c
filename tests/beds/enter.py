"""Starts a program inside another process's mount and PID namespaces.

usage: enter.py INIT_PID REPORT_FD JOIN_FILE... -- PROGRAM ARGUMENT...

Writes the program's PID, as the outside numbers it, to REPORT_FD, waits for it, and ends as it ended. nsenter
would do, but it does not tell the PID, and stops itself when the program is stopped.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(init_pid: int) -> None:
    for name, kind in (("pid", _CLONE_NEWPID), ("mnt", _CLONE_NEWNS)):
        descriptor = os.open(f"/proc/{init_pid}/ns/{name}", os.O_RDONLY)
        if _libc.setns(descriptor, kind) != 0:
            raise OSError(ctypes.get_errno(), f"can't enter the {name} namespace of {init_pid}")
        os.close(descriptor)


def _become(joins: list[str], program: list[str], directory: str) -> None:
    # If the waiting half is killed, the program must not live on unseen.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for join in joins:
        Path(join).write_text("0")  # "this process": its number is another one in here
    os.chdir(directory)
    os.execvp(program[0], program)  # noqa: S606 - becoming the program is the point


def _main() -> None:
    init_pid, report = int(sys.argv[1]), int(sys.argv[2])
    split = sys.argv.index("--")
    joins, program, directory = sys.argv[3:split], sys.argv[split + 1 :], str(Path.cwd())
    _enter(init_pid)
    child = os.fork()
    if child == 0:
        os.close(report)
        try:
            _become(joins, program, directory)
        except OSError as problem:
            sys.stderr.write(f"can't start {program[0]}: {problem}\n")
        os._exit(127)
    os.write(report, b"%d\n" % child)
    os.close(report)
    for descriptor in (0, 1, 2):
        os.close(descriptor)  # a pipe is to see its end when the program closes it
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal.signal(number, signal.SIG_DFL) if number not in {signal.SIGKILL, signal.SIGSTOP} else None
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _main()
