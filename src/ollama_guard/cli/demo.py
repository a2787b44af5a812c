"""``demo``: a safe live show of the guard on a fake Ollama."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    without_guard: Annotated[
        bool, typer.Option("--without-guard", help="The same without the guard, until memory is gone.")
    ] = False,
    pace: Annotated[
        float, typer.Option(hidden=True, min=0.2, max=5.0, help="How much quicker than for watchers.")
    ] = 1.0,
) -> None:
    """Watch the guard at work: a safe live show of about a minute.

    \b
      ollama-guard demo                    on a terminal: bars, levels, decisions
      ollama-guard demo | cat              plain lines
      ollama-guard demo --without-guard    what happens when nobody guards

    Needs no root and no Ollama. The guard is the real one; Ollama is a bundled fake whose runners take
    real memory, 1 GiB in all at most. The guard sees this small world alone: a real Ollama here is never
    touched. Nothing is left behind but the trace of a show that was seen to its end, for `replay`, in
    ~/.local/state/ollama-guard/demo; the next show's replaces it. Ctrl-C ends it and
    leaves nothing.

    Exit codes: 0 shown, 130 interrupted, 1 it can't be shown or something went wrong.
    """
    from ollama_guard.demo.play import play

    raise typer.Exit(play(guarded=not without_guard, pace=pace))
