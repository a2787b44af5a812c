"""The show as plain lines: for pipes, files, dumb terminals, and whoever sets NO_COLOR."""

from __future__ import annotations

import sys

from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text
from ollama_guard.demo.view import Told, View, clock
from ollama_guard.drawing.interrupts import Interrupts

# Seconds between two lines that tell how memory stands.
MEMORY_SECONDS = 3.0
KIND_WIDTH = 15


class Lines:
    """One line for each thing that happens, and one about memory every few seconds."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._memory_at = 0.0

    def draw(self, view: View) -> None:
        """A line about memory, when it is time."""
        if view.at - self._memory_at < MEMORY_SECONDS:
            return
        self._memory_at = view.at
        actors = ", ".join(
            f"{a.name} {a.state}" + (f" {bytes_text(a.held_bytes)}" if a.held_bytes else "")
            for a in view.actors
        )
        gone = "" if view.out_at is None else " (without the guard: out of memory)"
        self._write(
            view.at, "memory", f"{bytes_text(view.available_bytes)} left, {view.level}{gone}; {actors}"
        )

    def tell(self, told: Told) -> None:
        """A line about what happened."""
        self._write(told.at, told.kind, told.text)

    def close(self) -> None:
        """Nothing to give back."""

    def _write(self, at: float, kind: str, text: str) -> None:
        with self._interrupts.writing():
            sys.stdout.write(f"{clock(at)}  {kind:<{KIND_WIDTH}} {one_line(text)}\n")
            sys.stdout.flush()


def shortage(view: View) -> str:
    """How memory would stand without the guard."""
    if view.without_bytes > 0:
        return f"{bytes_text(view.without_bytes)} left"
    return f"{bytes_text(-view.without_bytes)} short"
