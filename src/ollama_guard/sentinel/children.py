"""Child processes by fork and (mostly) exec, without ever waiting for them.

subprocess is not used: its vfork makes the parent wait for the exec, which can hang on a disk. Every
child starts with default signal handlers, an empty signal mask, and no descriptor but its own.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ollama_guard.sentinel import kernel

STDIO = (0, 1, 2)
_EXEC_FAILED = 127
# Every signal that Python or the sentinel handles or ignores; an exec would inherit what is ignored.
_HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE,
    signal.SIGXFSZ, signal.SIGCHLD,
)  # fmt: skip


@dataclass(slots=True)
class Child:
    """One child of this process: its PID and a pidfd that becomes readable when it has exited."""

    pid: int
    pidfd: int

    def signal(self, signum: int) -> None:
        """Send a signal; a child that is gone is not an error."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signum)

    def exited(self, timeout_seconds: float = 0.0) -> bool:
        """Whether the child has exited, waiting at most this long."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout_seconds * 1000))

    def reap(self) -> str:
        """Collect the exited child and close its pidfd; returns how it ended, in words."""
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            status = 0
        os.close(self.pidfd)
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exit status {os.WEXITSTATUS(status)}"


def fork(work: Callable[[], object], keep: Sequence[int] = (), *, parent_death_signal: int = 0) -> Child:
    """Run ``work`` in a forked child that keeps only stdin, stdout, stderr and ``keep`` open.

    The child ends with status 0 when ``work`` returns and 1 when it raises.

    Raises:
        OSError: the kernel refused another process (EAGAIN, ENOMEM).
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become_child(work, keep, parent_death_signal)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return Child(pid, os.pidfd_open(pid))


def spawn(
    argv: Sequence[str],
    keep: Sequence[int] = (),
    *,
    stdout: int = 1,
    stderr: int = 2,
    parent_death_signal: int = signal.SIGKILL,
) -> Child:
    """Fork and exec ``argv`` (argv[0] is a path) with its stdout and stderr, inheriting ``keep``.

    Raises:
        OSError: the kernel refused another process. A failed exec shows as exit status 127.
    """

    def execute() -> None:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for fd in keep:
            os.set_inheritable(fd, True)  # noqa: FBT003 - its only signature
        with suppress(OSError):
            os.execv(argv[0], list(argv))  # noqa: S606 - no shell is the point
        os._exit(_EXEC_FAILED)

    return fork(execute, (*keep, stdout, stderr), parent_death_signal=parent_death_signal)


def _become_child(work: Callable[[], object], keep: Sequence[int], parent_death_signal: int) -> None:
    """In the child: default signals, own descriptors only, then ``work``; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        kernel.die_with_parent(parent_death_signal)
        _close_all_but({*STDIO, *keep})
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        work()
        status = 0
    finally:
        os._exit(status)


def _close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in ``keep``, whoever opened it.

    Those that are open are listed, never all numbers tried: os.closerange is one system call only where
    close_range(2) is (Linux 5.9, glibc 2.34); elsewhere it takes 2**31 of them, a quarter of an hour.
    """
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib costs time in every child
        fd = int(name)
        if fd not in keep:
            with suppress(OSError):  # the listing's own descriptor is closed by now
                os.close(fd)
