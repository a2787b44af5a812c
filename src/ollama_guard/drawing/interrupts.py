"""How the show is told to end: Ctrl-C, TERM, HUP, a terminal or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The show ends early; ``silent`` when there is nobody left to tell."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class Interrupts:
    """Notes signals while it is entered; `check` raises between two steps, so nothing is cut in the middle.

    Only a write may wait for ever (a stopped terminal), so only in `writing` a signal raises at once.
    """

    def __init__(self, output_fd: int) -> None:
        self._output_fd = output_fd
        self._told = ""
        self._in_write = False
        self._before: dict[int, Any] = {}
        self._poll = select.poll()
        self._poll.register(output_fd, 0)  # hang-ups and errors are reported unasked

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup is the owner's word
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise if the show is to end.

        Raises:
            Interrupted: by a signal, or since nobody can see it any more.
        """
        if self._told:
            raise Interrupted(self._told)
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in self._poll.poll(0)):
            raise self._gone()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around each write to the output.

        Raises:
            Interrupted: a signal came meanwhile, or nobody takes what is written.
        """
        self._in_write = True
        try:
            yield
        except OSError as error:
            raise self._gone() from error
        finally:
            self._in_write = False

    def _gone(self) -> Interrupted:
        # What Python still holds back for it would make noise at the end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._output_fd)
        os.close(null)
        return Interrupted("nobody reads the output any more", silent=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._told = self._told or signal.Signals(number).name
        if self._in_write:
            raise Interrupted(self._told)
