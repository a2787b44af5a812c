"""One epoll set: each descriptor with the function that is called when it has something to say."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

IN = select.EPOLLIN
PRI = select.EPOLLPRI
ERR = select.EPOLLERR

# Descriptors served per wake: bounds the time between two looks at memory, whoever is noisy.
_SERVED_PER_WAKE = 64

Handler = Callable[[int], None]


class Poller:
    """Descriptors and their handlers; a handler gets the epoll event mask."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def add(self, fd: int, handler: Handler, events: int = IN) -> None:
        """Watch ``fd`` until it is removed; it must be removed before it is closed."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def ensure(self, fd: int, handler: Handler, events: int) -> None:
        """Watch ``fd`` if the open file behind this number is not watched yet (numbers are used again)."""
        self._handlers[fd] = handler
        with suppress(FileExistsError):
            self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching ``fd``; unknown or closed ones are not an error."""
        self._handlers.pop(fd, None)
        with suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def __contains__(self, fd: int) -> bool:
        return fd in self._handlers

    def wait(self, seconds: float) -> None:
        """Sleep until something is to be served, at most ``seconds``, and serve it."""
        for fd, events in self._epoll.poll(max(0.0, seconds), _SERVED_PER_WAKE):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Close the epoll set."""
        self._epoll.close()


class Signals:
    """Signals as readable bytes: handlers do nothing, the wake-up descriptor tells the loop."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self) -> None:
        self._ours, self._wakeup = socket.socketpair()
        self._ours.setblocking(False)  # noqa: FBT003 - its only signature
        self._wakeup.setblocking(False)  # noqa: FBT003 - its only signature
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number in self.NUMBERS:
            signal.signal(number, _note)

    def fileno(self) -> int:
        """The descriptor that becomes readable when a signal came."""
        return self._ours.fileno()

    def take(self) -> list[int]:
        """The signal numbers that came since the last call."""
        try:
            return list(self._ours.recv(4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give the wake-up descriptor back; the signals are ignored from then on."""
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._ours.close()
        self._wakeup.close()


def _note(number: int, frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written to."""
