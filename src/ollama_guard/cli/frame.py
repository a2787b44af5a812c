"""One frame of the live view: the status document as lines that fit on any terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from ollama_guard.cli.show import blob_text, clock_text
from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text, seconds_text
from ollama_guard.drawing.bars import bar, limits_line
from ollama_guard.drawing.screen import LEVEL_STYLES, NARROW, STATE_STYLES, fitted, inner_width

# Decisions that a watch keeps; the status tells the last one only.
DECISIONS_KEPT = 8
# Domains, models and consumers shown at most: on 24 rows there has to be room for decisions.
DOMAINS_SHOWN, MODELS_SHOWN, CONSUMERS_SHOWN = 2, 6, 4
# Seconds from which a model is held for ever: Ollama says so with a date in three hundred years (facts 1.4).
FOR_EVER_SECONDS = 20 * 365 * 86400.0


@dataclass(slots=True)
class Watched:
    """What a watch has seen: the newest status, why there is none now, decisions from old to new."""

    document: Mapping[str, Any] | None = None
    trouble: str = ""
    decisions: list[Mapping[str, Any]] = field(default_factory=list)

    def see(self, document: Mapping[str, Any]) -> None:
        """Take a new status in."""
        self.document, self.trouble = document, ""
        last = document.get("last_decision")
        if last is None:
            return
        if self.decisions and self.decisions[-1]["at"] == last["at"]:
            self.decisions[-1] = last  # its outcome has come
        else:
            self.decisions = [*self.decisions, last][-DECISIONS_KEPT:]


def frame(watched: Watched, width: int, height: int) -> list[Text]:
    """The lines of one frame, none wider than ``width``, as many as fit; what matters least comes last."""
    inner = inner_width(width)
    document = watched.document
    lines = [_head(document, inner)]
    if watched.trouble:
        lines += [Text(one_line(watched.trouble), "bold red")]
    if document is None:
        return fitted(lines, width, height)
    for domain in document["domains"][:DOMAINS_SHOWN]:
        lines += _domain(domain, document, inner)
    lines += [Text(), *_models(document["models"], inner)]
    consumers = _consumers(document)
    room = height - len(lines) - (len(consumers) + 1 if consumers else 0)
    decisions = _decisions(watched.decisions, room - 1)
    for block in (decisions, consumers):
        lines += [Text(), *block] if block else []
    return fitted(lines, width, height)


def _head(document: Mapping[str, Any] | None, width: int) -> Text:
    left = Text().append("ollama-guard", "bold")
    if document is not None:
        left.append("  ").append(document["level"], LEVEL_STYLES.get(document["level"], "bold red"))
        left.append(f"  {document['mode']}", "dim" if document["mode"] == "enforce" else "bold yellow")
        for held in document["conditions"]:
            left.append(f"  {held['condition']}", "red")
    now = time.strftime("%H:%M:%S")
    if left.cell_len + len(now) + 2 > width:
        return left
    return left.append(" " * (width - left.cell_len - len(now))).append(now, "dim")


def _domain(domain: Mapping[str, Any], document: Mapping[str, Any], width: int) -> list[Text]:
    """A line of numbers, the bar with its thresholds, and their names."""
    available, capacity, level = domain["available_bytes"], domain["capacity_bytes"], domain["level"]
    head = Text().append(one_line(domain["name"]), "bold").append(f"  {level}", LEVEL_STYLES.get(level, ""))
    if available is None or not capacity:
        return [head.append("  available memory is not known", "red")]
    head.append(f"  {bytes_text(available)}").append(f" of {bytes_text(capacity)} left", "dim")
    slope, left = domain["slope_bytes_per_second"], domain["time_to_exhaustion_seconds"]
    if slope is not None and slope < 0 and left is not None:
        head.append(f"  falling {bytes_text(-slope)}/s, gone in {seconds_text(left)}", "yellow")
    used = capacity - available
    models = min(used, sum(model["resident_bytes"] or 0 for model in document["models"]))
    limits = tuple((domain.get("thresholds") or {}).items())
    parts = [(models, "blue"), (used - models, "bright_black")]
    return [head, bar(parts, capacity, limits, width), limits_line(capacity, limits, width)]


def _models(models: list[Mapping[str, Any]], width: int) -> list[Text]:
    if not models:
        return [Text("no model is loaded", "dim")]
    shown = [_model(model, width) for model in models[:MODELS_SHOWN]]
    more = len(models) - MODELS_SHOWN
    return [*shown, Text(f"and {more} more", "dim")] if more > 0 else shown


def _model(model: Mapping[str, Any], width: int) -> Text:
    name = one_line(model["name"] or blob_text(model["blob"]))
    state = model["state"]
    line = Text("■ ", "blue")
    if width < NARROW:
        return line.append(f"{state[:4]} {name}", STATE_STYLES.get(state, ""))
    room = max(16, width - 46)
    line.append(f"{name[:room]:<{room}} ").append(f"{state:<9}", STATE_STYLES.get(state, "dim"))
    size = model["resident_bytes"]
    line.append(f"{'?' if size is None else bytes_text(size):>8}   ").append(_left(model), "dim")
    return line if model["preference"] == "none" else line.append(f"  {model['preference']}", "cyan")


def _left(model: Mapping[str, Any]) -> str:
    """How long Ollama keeps it; a busy model's time is past without meaning anything (facts 1.4)."""
    expires = model["expires_at"]
    left = None if expires is None else expires - time.time()
    if left is None or left < 0:
        return ""
    return "kept for ever" if left > FOR_EVER_SECONDS else f"{seconds_text(left)} left"


def _decisions(decisions: list[Mapping[str, Any]], room: int) -> list[Text]:
    """The newest first, one line each."""
    lines = []
    for decision in reversed(decisions):
        outcome = decision["outcome"]
        style = {"failed": "red", "pending": "yellow"}.get(outcome or "", "green" if outcome else "dim")
        line = Text(f"{clock_text(decision['at'])} ", "dim").append(f"{outcome or 'told':<8}", style)
        lines.append(line.append(one_line(decision["reason"])))
    return lines[: max(0, room)]


def _consumers(document: Mapping[str, Any]) -> list[Text]:
    found = (document.get("consumers") or [])[:CONSUMERS_SHOWN]
    return [
        Text(f"{bytes_text(one['bytes']):>8}  ")
        .append(one_line(one["name"]))
        .append(f" {one['kind']}", "dim")
        for one in found
    ]
