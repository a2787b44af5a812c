"""From the curtain's rise to the last word: what the command `demo` runs."""

from __future__ import annotations

import sys
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from ollama_guard.core.units import bytes_text
from ollama_guard.demo import budget, story, summary, trace
from ollama_guard.demo.lines import Lines
from ollama_guard.demo.show import Screen, Show
from ollama_guard.demo.stage import Stage
from ollama_guard.demo.terminal import Terminal
from ollama_guard.drawing.interrupts import Interrupted, Interrupts
from ollama_guard.drawing.screen import NARROW, draws
from ollama_guard.errors import GuardError

EXIT_SHOWN, EXIT_INTERRUPTED = 0, 130
# The guard's start: hands' imports take half a second on an idle machine (seconds).
START_SECONDS = 20.0
_TITLE = "ollama-guard demo: a fake Ollama and {memory} of real memory, for about a minute; Ctrl-C ends it"


def play(*, guarded: bool, pace: float) -> int:
    """The whole show; returns the exit code.

    Raises:
        GuardError: it can't be shown here, or something in it went wrong.
    """
    size = budget.choose(budget.available_bytes())
    with Interrupts(sys.stdout.fileno()) as interrupts:
        try:
            with interrupts.writing():
                print(_TITLE.format(memory=bytes_text(size)), flush=True)  # noqa: T201 - it is a show
            _perform(Stage(size, guarded=guarded, pace=pace), interrupts)
        except Interrupted as interrupted:
            if not interrupted.silent:
                with suppress(OSError):
                    sys.stderr.write(f"ollama-guard: the demo was ended by {interrupted}; nothing is left\n")
            return EXIT_INTERRUPTED
    return EXIT_SHOWN


def _perform(stage: Stage, interrupts: Interrupts) -> None:
    """The show and the last words, with everything cleared away in between."""
    try:
        with stage:
            show = _show(stage, interrupts)
            lines = _last_words(show, stage)
    except (GuardError, OSError) as error:
        interrupts.check()  # a Ctrl-C reaches the fake Ollama as well, which may be quicker to end
        raise GuardError(str(error)) from error
    with interrupts.writing():
        _print(show, lines)


def _show(stage: Stage, interrupts: Interrupts) -> Show:
    screen: Screen = Terminal(Console(), interrupts) if draws() else Lines(interrupts)
    try:
        show = Show(stage, screen, interrupts)
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


def _last_words(show: Show, stage: Stage) -> list[str]:
    """The sentences under the table; the guard has ended then, and its trace is whole."""
    if stage.guard is None:
        return summary.verdict_without(show)
    stage.guard.close()
    return [*summary.verdict(show), trace.keep(stage.folder / "state")]


def _print(show: Show, lines: list[str]) -> None:
    rows = [] if show.stage.guard is None else list(summary.rows(show))
    console = Console(highlight=False)
    if rows and draws() and console.width >= NARROW:
        table = Table(
            "when", "what happened", "came back", box=None, header_style="dim", padding=(0, 2, 0, 0)
        )
        for row in rows:
            table.add_row(*row)
        console.print("", table)
    elif rows:
        told = (f"{when:<6} {what}{f', {back} came back' if back else ''}" for when, what, back in rows)
        print("", *told, sep="\n")  # noqa: T201 - it is a show
    print("", *lines, sep="\n", flush=True)  # noqa: T201 - it is a show
