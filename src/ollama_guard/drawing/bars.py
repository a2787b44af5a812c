"""Bars of memory: who holds how much, what is left, and where the thresholds are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

FULL, FREE, LIMIT = "█", "─", "┼"
LIMIT_STYLES = {"soft": "yellow", "hard": "red", "critical": "bold red"}
# Labels below a bar, shorter than the levels' names where those would collide.
LABELS = {"soft": "soft", "hard": "hard", "critical": "crit"}


def bar(
    parts: Sequence[tuple[int, str]], capacity_bytes: int, limits: Sequence[tuple[str, int]], width: int
) -> Text:
    """One line of ``width`` cells: each part in its colour, the rest free, with a mark at each threshold.

    Edges are rounded on the running sum, so that parts never drift from the whole.
    """
    line = Text()
    reached = done = 0
    for size, style in parts:
        reached += max(0, size)
        edge = min(width, round(width * reached / capacity_bytes))
        line.append(FULL * (edge - done), style)
        done = max(done, edge)
    marks = {_column(capacity_bytes, limit, width): level for level, limit in limits}
    for column in range(done, width):
        level = marks.get(column)
        line.append(
            FREE if level is None else LIMIT, "bright_black" if level is None else LIMIT_STYLES[level]
        )
    return line


def limits_line(capacity_bytes: int, limits: Sequence[tuple[str, int]], width: int) -> Text:
    """The names of the thresholds below their marks, those that have room."""
    line = Text()
    for level, limit in limits:
        column, label = _column(capacity_bytes, limit, width), LABELS[level]
        if column >= line.cell_len + bool(line.cell_len) and column + len(label) <= width:
            line.append(" " * (column - line.cell_len)).append(label, LIMIT_STYLES[level])
    return line


def _column(capacity_bytes: int, limit_bytes: int, width: int) -> int:
    """Where on the bar only ``limit_bytes`` are left."""
    return min(width - 1, round(width * (capacity_bytes - limit_bytes) / capacity_bytes))
