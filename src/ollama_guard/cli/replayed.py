"""What a replay found, as a person and as a program reads it. Foreign text stays one line each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ollama_guard import __version__
from ollama_guard.core.codec import to_plain
from ollama_guard.core.events import one_line
from ollama_guard.core.model import Decision, Rung
from ollama_guard.core.replay import Comparison, Span
from ollama_guard.core.units import count_text, seconds_text

COLUMN = 34  # characters: level, rung and a model's name


def as_text(seen: Comparison, new: Path | None) -> str:
    """Lines for a person."""
    lines = [one_line(note) for note in notes(seen)]
    lines += _verdict(seen) if new is None else [*_table(seen.spans), *_summary(seen, one_line(str(new)))]
    return "\n".join(lines)


def as_document(seen: Comparison, new: Path | None) -> dict[str, Any]:
    """The same for a program; times are epoch seconds, decisions as in the trace."""
    first = seen.first
    return {
        "decisions": seen.decisions,
        "identical": first is None,
        "recorded_by": seen.guards,
        "gaps": seen.gaps,
        "lost_records": seen.lost,
        "notes": notes(seen),
        "config": None if new is None else str(new),
        "first_difference": None
        if first is None
        else {
            "file": seen.first_in, "line": first.line, "at": first.wall,
            "recorded": to_plain(first.recorded), "replayed": to_plain(first.replayed),
        },
        "differing_decisions": seen.unlike,
        "differing_actions_since": seen.acts_wall,
        "spans": [
            {
                "from": span.first.wall, "to": span.until_wall, "decisions": span.count,
                "recorded": to_plain(span.first.recorded), "replayed": to_plain(span.first.replayed),
            }
            for span in seen.spans
        ],
    }  # fmt: skip


def notes(seen: Comparison) -> list[str]:
    """What is to be said about the traces themselves."""
    said = [
        f"{name}: its last line is cut off ({count_text(count, 'byte')}) and was left out"
        for name, count in seen.cut_off.items()
    ]
    if seen.gaps:
        gaps, lost = count_text(seen.gaps, "gap"), count_text(seen.lost, "record")
        said.append(f"{gaps} of at least {lost} in all; what is there was replayed")
    return said


def _verdict(seen: Comparison) -> list[str]:
    first = seen.first
    if first is None:
        return [f"{count_text(seen.decisions, 'decision')} replayed, all the same"]
    where = f"{one_line(seen.first_in)}, line {first.line}, {_when(first.wall)}"
    lines = [
        f"{count_text(seen.decisions - 1, 'decision')} replayed the same, then one that differs: {where}",
        f"  recorded  {_told(first.recorded)}",
        f"  replayed  {_told(first.replayed)}",
    ]
    if seen.guards != [__version__]:
        lines.append(f"recorded by ollama-guard {one_line(', '.join(seen.guards))}, this is {__version__}")
    return lines


def _table(spans: list[Span]) -> list[str]:
    if not spans:
        return []
    head = f"{'from (UTC)':<20} {'for':>7}  {'recorded':<{COLUMN}} with the new file"
    return [head, *(_row(span) for span in spans), ""]


def _row(span: Span) -> str:
    lasted = seconds_text(span.until_wall - span.first.wall)
    was, would_be = _short(span.first.recorded), _short(span.first.replayed)
    return f"{_when(span.first.wall).removesuffix(' UTC'):<20} {lasted:>7}  {was:<{COLUMN}} {would_be}"


def _summary(seen: Comparison, new: str) -> list[str]:
    head = f"{count_text(seen.decisions, 'decision')} replayed with {new}: "
    if not seen.unlike:
        return [f"{head}level and actions would have been the same"]
    head += f"{seen.unlike} would have come to another level or action"
    if seen.acts_wall is None:
        return [head, "nothing else would have been done"]
    return [
        head,
        f"from {_when(seen.acts_wall)} on other things would have been done; the record goes on as it is:",
        "what comes later shows how the new file judges it, not what would have happened",
    ]


def _told(decision: Decision) -> str:
    return f"{_short(decision)}: {one_line(decision.reason)}"


def _short(decision: Decision) -> str:
    """``soft, unload_idle big:latest``."""
    whom = ", ".join(action.model or (action.blob or "?")[:19] for action in decision.actions)
    would = "would " if decision.would else ""
    rung = decision.rung.value
    if decision.rung is Rung.NONE:  # on which only a ghost is cleared away
        rung = decision.actions[0].kind.value if decision.actions else "nothing"
    return one_line(f"{decision.level.word}, {would}{rung} {whom}".rstrip())


def _when(wall: float) -> str:
    try:
        return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "at no known time"
