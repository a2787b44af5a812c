"""The terminal's other screen, and lines that fit on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ollama_guard.drawing.interrupts import Interrupts

LEVEL_STYLES = {
    "ok": "bold green",
    "soft": "bold yellow",
    "hard": "bold red",
    "critical": "bold white on red",
}
STATE_STYLES = {
    "busy": "green",
    "growing": "yellow",
    "loading": "yellow",
    "condemned": "red",
    "aborted": "red",
}
# Columns below which names stand alone, without notes, and above which lines would be tiresome to read.
NARROW, WIDE = 50, 100


def draws() -> bool:
    """Whether there is a terminal that can show frames and somebody who wants them."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return terminal and not os.environ.get("NO_COLOR") and "utf" in sys.stdout.encoding.lower()


class Screen:
    """The alternate screen, so that the terminal is as it was when it is closed."""

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._console, self._interrupts = console, interrupts
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        with interrupts.writing():
            self._live.start()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        return self._console.size

    def show(self, lines: Iterable[Text]) -> None:
        """One frame, in the place of the last."""
        with self._interrupts.writing():
            self._live.update(Group(*lines), refresh=True)

    def close(self) -> None:
        """Give the terminal back as it was."""
        with suppress(OSError):
            self._live.stop()


def inner_width(width: int) -> int:
    """The columns that are drawn on: a margin where there is room, never too wide to read."""
    return min(width, WIDE) - (2 if width >= NARROW else 0)


def fitted(lines: list[Text], width: int, height: int) -> list[Text]:
    """As many lines as fit, each cut to the columns; the last ones are left out."""
    margin = " " if width >= NARROW else ""
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
        line.truncate(inner_width(width), overflow="ellipsis")
    return [Text(margin).append_text(line) for line in lines[:height]]
