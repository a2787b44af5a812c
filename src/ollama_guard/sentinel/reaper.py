"""The pre-forked child that frees a killed process' memory, so that the sentinel never waits for it.

`process_mrelease` frees in its caller (40/155/311 ms for 1/4/8 GiB), and frees even while the victim
itself can't run: stopped, throttled, or stuck in the kernel.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from contextlib import suppress

from ollama_guard.sentinel import children, kernel
from ollama_guard.sentinel.children import Child

_REPORT = struct.Struct("=ii")
# The victim's map can be locked for a moment by whoever walks it; a try each 20 ms for a second outlasts
# such walks (smaps of 8 GiB: about 100 ms).
_RETRIES = 50
_RETRY_MILLISECONDS = 20
# Pidfds that wait while one victim is being freed; more than the runners a server can have.
_BACKLOG = 32


class Reaper:
    """Owns the reaper child and the socket to it; all its methods return at once."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.dropped = 0
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Fork the child.

        Raises:
            OSError: the kernel refused another process or socket.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - its only signature
        try:
            self.child = children.fork(
                lambda: _reap_for_ever(theirs), (theirs.fileno(),), parent_death_signal=signal.SIGKILL
            )
            self._socket = ours
        finally:
            theirs.close()

    def release(self, pid: int, pidfd: int) -> None:
        """Hand a dying process over; counted in ``dropped`` if the reaper can't take it now."""
        if self._socket is None:
            self.dropped += 1
            return
        try:
            socket.send_fds(self._socket, [_REPORT.pack(pid, 0)], [pidfd])
        except OSError:
            self.dropped += 1

    def reports(self) -> list[tuple[int, int]]:
        """What became of the handed-over processes since the last call: (pid, 0 or an errno)."""
        found: list[tuple[int, int]] = []
        with suppress(OSError):
            while self._socket is not None and len(found) < _BACKLOG:
                packet = self._socket.recv(_REPORT.size)
                if len(packet) != _REPORT.size:
                    break
                found.append(_REPORT.unpack(packet))
        return found

    def died(self) -> str:
        """Collect a reaper that has exited; returns how it ended. `start` makes another."""
        ended = self.child.reap() if self.child else "never started"
        self.child = None
        self._close_socket()
        return ended

    def stop(self) -> None:
        """End the child at once."""
        if self.child is not None:
            self.child.signal(signal.SIGKILL)
            self.child.exited(0.2)
            self.died()
        self._close_socket()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _reap_for_ever(sock: socket.socket) -> None:
    """The child's whole life: one pidfd after the other until the sentinel's end closes."""
    kernel.name_process("guard-reaper")
    _ignore_stop_signals()
    kernel.lock_memory()
    while True:
        packet, fds, _, _ = socket.recv_fds(sock, _REPORT.size, 1)
        if not packet:
            return
        for fd in fds:
            error = _release(fd)
            os.close(fd)
            with suppress(OSError):
                sock.send(_REPORT.pack(_REPORT.unpack(packet)[0], error), socket.MSG_DONTWAIT)


def _release(pidfd: int) -> int:
    """Free one process, again while its map is busy; 0, or the last errno."""
    gone = select.poll()
    gone.register(pidfd, select.POLLIN)
    error = kernel.process_mrelease(pidfd)
    for _ in range(_RETRIES):
        if error != errno.EAGAIN or gone.poll(_RETRY_MILLISECONDS):
            break
        error = kernel.process_mrelease(pidfd)
    return error


def _ignore_stop_signals() -> None:
    """The supervisor stops a whole control group; the sentinel still needs its reaper until it ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
