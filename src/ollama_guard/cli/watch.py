"""``status --watch``, ``top``: the running guard's view once a second, until somebody has seen enough."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ollama_guard.cli.client import NoPermission, get_status
from ollama_guard.cli.frame import Watched, frame
from ollama_guard.cli.show import status_text
from ollama_guard.drawing.interrupts import Interrupted, Interrupts
from ollama_guard.drawing.screen import Screen, draws
from ollama_guard.errors import ServiceUnavailable

# Seconds between two looks, each one request; and for one answer, so that a guard that hangs is told of.
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 2.0


class View(Protocol):
    """Where it is shown."""

    def draw(self, watched: Watched) -> None:
        """Show what is now."""

    def close(self) -> None:
        """Leave everything as it was."""


def watch(runtime_dir: Path, *, as_json: bool) -> None:
    """Watch until q, Ctrl-C, or until nobody reads any more.

    Raises:
        ServiceUnavailable: no rights on the socket; a guard that is away is waited for.
    """
    with (
        contextlib.suppress(Interrupted),
        Interrupts(sys.stdout.fileno()) as interrupts,
        _keys() as wakers,
    ):
        watched = Watched()
        _look(runtime_dir, watched)
        view = _view(interrupts, as_json=as_json)
        try:
            view.draw(watched)
            while _waited(wakers, view, watched, interrupts):
                _look(runtime_dir, watched)
                view.draw(watched)
        finally:
            view.close()


def _look(runtime_dir: Path, watched: Watched) -> None:
    try:
        watched.see(get_status(runtime_dir, ANSWER_SECONDS))
    except NoPermission:
        raise
    except ServiceUnavailable as error:
        watched.document, watched.trouble = None, f"{error}; waiting for it"


def _waited(wakers: tuple[int, ...], view: View, watched: Watched, interrupts: Interrupts) -> bool:
    """Until the next look is due; False when there will be none, since somebody pressed q."""
    end = time.monotonic() + LOOK_SECONDS
    while (left := end - time.monotonic()) > 0:
        interrupts.check()
        ready, _, _ = select.select(wakers, (), (), left)
        interrupts.check()
        for descriptor in ready:
            pressed = os.read(descriptor, 1024)
            if descriptor == sys.stdin.fileno():
                if not pressed or b"q" in pressed.lower() or b"\x03" in pressed:
                    return False
            elif bytes([signal.SIGWINCH]) in pressed and isinstance(view, Drawn):
                view.draw(watched)
    return True


@contextlib.contextmanager
def _keys() -> Iterator[tuple[int, ...]]:
    """What wakes a wait: keys, where there is a terminal to type on and to draw on, and signals."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before_wakeup = signal.set_wakeup_fd(writer)
    before_resize = signal.signal(signal.SIGWINCH, lambda *_: None)
    keyboard = sys.stdin.fileno() if draws() and sys.stdin.isatty() else None
    before_keys = termios.tcgetattr(keyboard) if keyboard is not None else None
    try:
        if keyboard is not None:
            tty.setcbreak(keyboard)
        yield (reader,) if keyboard is None else (reader, keyboard)
    finally:
        if keyboard is not None and before_keys is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before_keys)
        signal.signal(signal.SIGWINCH, before_resize)
        signal.set_wakeup_fd(before_wakeup)
        os.close(reader)
        os.close(writer)


def _view(interrupts: Interrupts, *, as_json: bool) -> View:
    if draws() and not as_json:
        from rich.console import Console

        return Drawn(Screen(Console(), interrupts))
    return Plain(interrupts, as_json=as_json)


class Drawn:
    """Frames on the terminal's other screen."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def draw(self, watched: Watched) -> None:
        """The next frame."""
        self._screen.show(frame(watched, *self._screen.size))

    def close(self) -> None:
        """The first screen is back."""
        self._screen.close()


class Plain:
    """Text, or one line of JSON, after the other; no escape codes."""

    def __init__(self, interrupts: Interrupts, *, as_json: bool) -> None:
        self._interrupts = interrupts
        self._as_json = as_json

    def draw(self, watched: Watched) -> None:
        """The status as `status` tells it, and an empty line."""
        with self._interrupts.writing():
            sys.stdout.write(self._text(watched))
            sys.stdout.flush()

    def close(self) -> None:
        """Nothing to give back."""

    def _text(self, watched: Watched) -> str:
        if self._as_json:
            told = watched.document or {"error": watched.trouble}
            return json.dumps(told, ensure_ascii=False) + "\n"
        return (watched.trouble if watched.document is None else status_text(watched.document)) + "\n\n"
