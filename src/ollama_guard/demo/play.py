"""From the curtain's rise to the last word: what the command `demo` runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from ollama_guard.demo import budget, story, summary, trace
from ollama_guard.demo.interrupts import Interrupted, Interrupts
from ollama_guard.demo.lines import Lines
from ollama_guard.demo.show import Screen, Show
from ollama_guard.demo.stage import Stage
from ollama_guard.demo.terminal import Terminal
from ollama_guard.errors import GuardError

EXIT_SHOWN, EXIT_INTERRUPTED = 0, 130
# The guard's start: hands' imports take half a second on an idle machine (seconds).
START_SECONDS = 20.0


def play(*, guarded: bool, pace: float) -> int:
    """The whole show; returns the exit code.

    Raises:
        GuardError: it can't be shown here, or something in it went wrong.
    """
    size = budget.choose(budget.available_bytes())
    with Interrupts(sys.stdout.fileno()) as interrupts:
        try:
            with Stage(size, guarded=guarded) as stage:
                show = _show(stage, interrupts, pace)
                lines = _last_words(show, stage)
            with interrupts.writing():
                _print(show, lines)
        except Interrupted as interrupted:
            if not interrupted.silent:
                with suppress(OSError):
                    sys.stderr.write(f"ollama-guard: the demo was ended by {interrupted}; nothing is left\n")
            return EXIT_INTERRUPTED
    return EXIT_SHOWN


def _show(stage: Stage, interrupts: Interrupts, pace: float) -> Show:
    screen: Screen = Terminal(Console(), interrupts) if _draws() else Lines(interrupts)
    try:
        show = Show(stage, screen, interrupts, pace)
        try:
            if stage.guard is None:
                story.tell_without(show)
            else:
                show.until(lambda: show.happened("ollama.found"), START_SECONDS, "the guard's start")
                show.begin()
                story.tell(show)
        finally:
            show.chat.close()
    finally:
        screen.close()
    return show


def _draws() -> bool:
    """Whether there is a terminal that can show frames and somebody who wants them."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return terminal and not os.environ.get("NO_COLOR") and "utf" in sys.stdout.encoding.lower()


def _last_words(show: Show, stage: Stage) -> list[str]:
    """The sentences under the table; the guard has ended then, and its trace is whole."""
    if stage.guard is None:
        return summary.verdict_without(show)
    stage.guard.close()
    return [*summary.verdict(show), trace.keep(stage.folder / "state")]


def _print(show: Show, lines: list[str]) -> None:
    console = Console(no_color=not _draws(), highlight=False, soft_wrap=not _draws())
    rows = list(summary.rows(show)) if show.stage.guard is not None else []
    console.print()
    if _draws() and rows:
        table = Table("when", "what happened", "came back", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    else:
        for when, what, back in rows:
            console.print(f"{when:<6} {what}{f', {back} came back' if back else ''}", markup=False)
    for line in lines:
        console.print(line, markup=False)
