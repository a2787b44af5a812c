"""The sensors' own epoll set: one descriptor for the loop to wait on, however ours come and go."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress

from ollama_guard.sentinel.sensors.psi import Trigger

# Descriptors served at once; the rest is still there at the next wake.
_SERVED_AT_ONCE = 32

OpenPidfd = Callable[[int], int]


class Watches:
    """Descriptors with their handlers, nested in the loop's epoll set (epoll(7) allows that)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], object]] = {}

    def fileno(self) -> int:
        """Readable whenever a handler is due; never changes while the guard runs."""
        return self._epoll.fileno()

    def add(self, fd: int, handler: Callable[[int], object], events: int = select.EPOLLIN) -> bool:
        """Watch ``fd``; the handler gets the events. False if the kernel can't poll it."""
        try:
            self._epoll.register(fd, events)
        except (OSError, ValueError):
            return False
        self._handlers[fd] = handler
        return True

    def add_trigger(self, trigger: Trigger, now: Callable[[], float]) -> None:
        """Watch a PSI trigger; one that lost its file is taken out, else it would report that for ever."""
        fd = trigger.fd

        def on_events(events: int) -> None:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                self.remove(fd)
            trigger.on_events(events, now())

        self.add(fd, on_events, Trigger.EVENTS)

    def remove(self, fd: int) -> None:
        """Stop watching; to be called before ``fd`` is closed, since its number is used again."""
        if self._handlers.pop(fd, None) is not None:
            with suppress(OSError, ValueError):
                self._epoll.unregister(fd)

    def serve(self) -> None:
        """Call the handlers that are due, without waiting."""
        for fd, events in self._epoll.poll(0, _SERVED_AT_ONCE):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Close the set; the descriptors in it belong to others."""
        self._epoll.close()


class Pidfd:
    """Wakes the loop when a process ends; without one (no rights, a fake /proc) the looks find out."""

    def __init__(self, pid: int, watches: Watches, open_pidfd: OpenPidfd | None) -> None:
        self._watches = watches
        self._fd = -1
        if open_pidfd is not None:
            with suppress(OSError):
                self._fd = open_pidfd(pid)
        if self._fd >= 0:
            watches.add(self._fd, self._on_exit)

    @property
    def watching(self) -> bool:
        """Whether the end of the process will wake the loop."""
        return self._fd >= 0

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            self._watches.remove(self._fd)
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _on_exit(self, _events: int) -> None:
        self.close()  # it would stay readable; the look that follows finds the death by itself
