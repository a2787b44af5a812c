"""The show on a terminal: one calm frame, redrawn in place a few times a second."""

from __future__ import annotations

import time

from rich.console import Console
from rich.text import Text

from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text
from ollama_guard.demo.bars import SHADES, part_of
from ollama_guard.demo.lines import shortage
from ollama_guard.demo.view import Actor, Told, View, clock
from ollama_guard.drawing.bars import bar, limits_line
from ollama_guard.drawing.interrupts import Interrupts
from ollama_guard.drawing.screen import LEVEL_STYLES, NARROW, STATE_STYLES, Screen, fitted, inner_width

# Seconds between two frames: quick enough for a bar to glide, slow enough to read.
FRAME_SECONDS = 0.15


class Terminal:
    """Draws on the alternate screen, so that the terminal is as it was when the show is over."""

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._screen = Screen(console, interrupts)
        self._drawn_at = 0.0

    def draw(self, view: View) -> None:
        """The next frame, when it is time."""
        now = time.monotonic()
        if now - self._drawn_at < FRAME_SECONDS:
            return
        self._drawn_at = now
        self._screen.show(frame(view, *self._screen.size))

    def tell(self, told: Told) -> None:
        """It is in the next frame."""

    def close(self) -> None:
        """Give the terminal back as it was."""
        self._screen.close()


def frame(view: View, width: int, height: int) -> list[Text]:
    """The lines of one frame, none wider than ``width``, as many as fit; what matters least comes last."""
    whole, width = width, inner_width(width)
    lines = [_head(view, width), *_chapter(view, width), *_memory(view, width), Text()]
    lines += [_actor(actor, width) for actor in view.actors]
    told = _told(view, width, height - len(lines) - 1)
    lines += [Text(), *told] if told else []
    return fitted(lines, whole, height)


def _head(view: View, width: int) -> Text:
    left = Text("ollama-guard demo", "bold")
    left.append(f" · {bytes_text(view.budget_bytes)} of memory", "dim")
    left.append("" if view.guarded else " · no guard", "bold red")
    time_text = clock(view.at)
    if left.cell_len + len(time_text) + 2 > width:
        return left
    return left.append(" " * (width - left.cell_len - len(time_text))).append(time_text, "bold")


def _chapter(view: View, width: int) -> list[Text]:
    dots = "●" * view.chapter + "○" * (view.chapters - view.chapter)
    title = Text(dots, "cyan").append(f" {view.title}", "bold cyan")
    caption = _wrapped(view.caption, max(10, width), 2)
    return [Text(), title, *caption, *[Text()] * (3 - len(caption))]


def _memory(view: View, width: int) -> list[Text]:
    parts = [part_of(actor.name, actor.held_bytes) for actor in view.actors]
    told = sum(size for size, _ in parts)
    rest = view.budget_bytes - view.available_bytes - told
    with_guard = bar([*parts, (rest, SHADES["rest"])], view.budget_bytes, view.limits, width)
    free = Text(view.level, LEVEL_STYLES.get(view.level, "bold red"))
    free.append(f"  {bytes_text(view.available_bytes)} left", "bold")
    free.append(f" of {bytes_text(view.budget_bytes)}", "dim")
    lines = [free, with_guard, limits_line(view.budget_bytes, view.limits, width)]
    if view.guarded:
        lines += [_without_text(view, width), _without_bar(view, width)]
    return lines


def _without_text(view: View, width: int) -> Text:
    text = Text("without the guard: " if width >= NARROW else "without: ", "dim")
    if view.out_at is None:
        return text.append(shortage(view), "dim")
    return text.append(f"out of memory since {clock(view.out_at)}", "bold red")


def _without_bar(view: View, width: int) -> Text:
    used = min(view.budget_bytes, view.budget_bytes - view.without_bytes)
    return bar([(used, SHADES["without"])], view.budget_bytes, (), width)


def _actor(actor: Actor, width: int) -> Text:
    _, shade = part_of(actor.name, actor.held_bytes)
    line = Text("■ " if actor.held_bytes else "□ ", shade)
    if width < NARROW:
        return line.append(f"{actor.name} {actor.state}", STATE_STYLES.get(actor.state, ""))
    line.append(f"{actor.name:<12}")
    line.append(f"{actor.state:<11}", STATE_STYLES.get(actor.state, "dim"))
    size = bytes_text(actor.held_bytes) if actor.held_bytes else "-"
    return line.append(f"{size:>8}   ").append(actor.note, "dim")


def _told(view: View, width: int, room: int) -> list[Text]:
    """The newest lines of the guard that fit, each wrapped and whole."""
    lines: list[Text] = []
    for told in reversed(view.told):
        indent = 7 if width >= NARROW else 0
        wrapped = _wrapped(told.text, max(10, width - indent), 3)
        block = [Text(" " * indent).append_text(line) for line in wrapped]
        if indent:
            block[0] = Text(f"{clock(told.at)}  ", "dim").append_text(wrapped[0])
        for line in block:
            line.stylize("bold" if told.loud else "", indent)
        if len(lines) + len(block) > room:
            break
        lines = [*block, *lines]
    return lines


def _wrapped(text: str, width: int, most: int) -> list[Text]:
    """``text`` in at most so many lines; what is left over ends in an ellipsis."""
    lines = [""]
    for word in one_line(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1][: width - 1]}…"]
    return [Text(line) for line in lines]
