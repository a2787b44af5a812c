"""How far something long is: a bar on a terminal, a line for each part anywhere else."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from ollama_guard.core.events import one_line

# Columns from which there is room for the bar beside a model's name and what it is at.
WIDE_COLUMNS = 70


class Bar:
    """Told on stderr, so that what is printed can go elsewhere. Enter it for the time of the work.

    Args:
        steps_each: steps of one part.
        parts: how many parts there are.
    """

    def __init__(self, parts: int, steps_each: int) -> None:
        self._steps_each = steps_each
        self._part = -1
        self._draws = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        console = Console(stderr=True)
        text = TextColumn(
            "{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        )
        # Where it is narrow, what goes on says more than a bar.
        bar = [BarColumn(bar_width=20)] if console.width >= WIDE_COLUMNS else []
        self._progress = Progress(
            text,
            *bar,
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._draws,
        )
        self._task = self._progress.add_task("", total=parts * steps_each)

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._progress.stop()

    def begin(self, text: str) -> None:
        """The next part; what is left of the last one is not done."""
        self._part += 1
        self._progress.update(self._task, completed=self._part * self._steps_each)
        self.at(text)
        if not self._draws:
            with suppress(OSError):
                print(one_line(text), file=sys.stderr, flush=True)  # noqa: T201 - this is what it is for

    def at(self, text: str) -> None:
        """A step begins."""
        shown = one_line(text).replace("[", "\\[")  # no markup out of a model's name
        self._progress.update(self._task, description=shown)
        self.tick()

    def done(self) -> None:
        """A step is over."""
        self._progress.advance(self._task)
        self.tick()

    def tick(self) -> None:
        """Draw what is now."""
        if self._draws:
            with suppress(OSError):
                self._progress.refresh()
