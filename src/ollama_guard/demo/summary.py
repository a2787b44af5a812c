"""What is said after the show: what happened, what came back, and what would have been."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ollama_guard.core.units import bytes_text
from ollama_guard.demo.show import Show
from ollama_guard.demo.stage import CHAT, CODER
from ollama_guard.demo.view import clock

Row = tuple[str, str, str]
"""When, what happened, what came back."""

_TOLD = {
    "model.unloaded": "{names}, idle, was unloaded",
    "load.aborted": "the load of {names} was aborted at birth",
    "blob.condemned": "{names} is condemned: killed at birth for ten minutes",
    "runner.killed": "the runner of {names} was killed",
}


def rows(show: Show) -> Iterator[Row]:
    """The guard's deeds in order, then what was left alone."""
    for event in show.events:
        text = _TOLD.get(event["event"])
        if text is not None:
            yield clock(event["at"]), text.format(names=event.get("names")), _came_back(event)
    answers = (
        f"{show.chat.whole} answers of {CHAT} came whole ({show.chat.words} words), {show.chat.cut} were cut"
    )
    yield "", answers, ""
    if show.happened("model.unloaded", CODER) is not None and show.model_state(CODER):
        yield "", f"{CODER} came back when it was asked for", ""


def verdict(show: Show) -> list[str]:
    """With the guard, and without: one sentence each, and how the second is computed."""
    least, budget = show.stage.world.least, show.stage.budget_bytes
    available = bytes_text(least.available_bytes)
    with_guard = f"With the guard at least {available} of {bytes_text(budget)} stayed available."
    out_at = show.without.out_at
    if out_at is None:
        return [with_guard, "Without it, memory would have sufficed this time."]
    short = bytes_text(-show.without.worst_bytes)
    return [
        with_guard,
        f"Without it this machine would have been out of memory at {clock(out_at)}, {short} short at worst",
        "(what all processes really held, plus what the guard took back and nobody else would have).",
    ]


def verdict_without(show: Show) -> list[str]:
    """The end of the show that has no guard."""
    return [
        f"Without a guard this machine was out of memory at {clock(show.without.out_at or 0.0)}.",
        f"{CODER} was idle and kept its memory to the end; nobody asked Ollama to let it go.",
    ]


def _came_back(event: dict[str, Any]) -> str:
    freed = event.get("freed_bytes")
    return "" if freed is None else bytes_text(freed)
