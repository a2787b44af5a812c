"""Log events: one schema, three renderings (journal fields, a readable line, a JSON line).

Both processes log through these functions, so the renderings can't drift apart. Whatever foreign
text a field carries, a rendering is one line: control characters are escaped here and nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum

Value = str | int | float | bool | None

EVENT_NAMES = frozenset(
    {
        "guard.started", "guard.stopping", "guard.warned", "guard.tested", "guard.reported", "guard.stalled",
        "level.changed", "decision.made", "decision.held", "action.failed", "condition.changed",
        "model.unloaded", "load.aborted", "runner.killed", "blob.condemned", "blob.pardoned",
        "cap.changed", "keepalive.capped", "model.quarantined", "model.restored",
        "playbook.started", "playbook.step", "playbook.finished",
        "ollama.lost", "ollama.found", "hands.restarted", "config.reloaded", "config.rejected",
        "pause.started", "pause.ended", "request.answered",
        "runtime.found", "runtime.failed", "runtime.told", "runner.lost", "runner.stuck", "model.returned",
        "alert.sent", "alert.failed", "memory.reclaimed", "tier.changed",
    }
)  # fmt: skip

ALERTED = frozenset(
    {
        "playbook.started", "playbook.finished", "blob.condemned", "model.quarantined", "model.restored",
        "runner.stuck",
    }
)  # fmt: skip
"""What a person should know of at once: these go to the owner's webhook as well (`[notify]`)."""


class Priority(IntEnum):
    """syslog(3) priorities, as journald's PRIORITY field."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: ``noun.verb_past``, one sentence, fields with units in their names."""

    name: str
    message: str
    priority: Priority = Priority.INFO
    fields: Mapping[str, Value] = field(default_factory=dict)

    @property
    def alerts(self) -> bool:
        """Whether the owner's webhook is told of it; also whatever says that the guard has given up."""
        return self.name in ALERTED or bool(self.fields.get("gave_up"))


def one_line(text: str, limit: int = 2000) -> str:
    """Foreign text as one printable line: control, format and line-break characters are escaped."""
    shown = "".join(c if c.isprintable() else _escaped(c) for c in text[:limit])
    return shown if len(text) <= limit else f"{shown}…"


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def as_journal(event: Event) -> dict[str, str]:
    """Native journald fields; the event is ``OLLAMA_GUARD_EVENT``, each field ``OLLAMA_GUARD_<KEY>``."""
    rendered = {
        "MESSAGE": one_line(event.message),
        "PRIORITY": str(int(event.priority)),
        "SYSLOG_IDENTIFIER": "ollama-guard",
        "OLLAMA_GUARD_EVENT": event.name,
    }
    for key, value in event.fields.items():
        if value is not None:
            rendered[f"OLLAMA_GUARD_{key.upper()}"] = _text(value)
    return rendered


def as_line(event: Event, wall: float) -> str:
    """One readable line: UTC time, ``!`` from warnings up, event, sentence.

    The fields are for programs and stay out: they say in bytes and digests what the sentence says for
    people. Only how often a line was left out before (``repeated``) is no part of any sentence.
    """
    stamp = _when(wall).strftime("%H:%M:%SZ")
    mark = "!" if event.priority <= Priority.WARNING else " "
    repeated = event.fields.get("repeated")
    again = "" if repeated is None else f"  ({_text(repeated)} more like this left out)"
    return f"{stamp} {mark}{event.name:<18} {one_line(event.message)}{again}"


def as_json(event: Event, wall: float) -> str:
    """One JSON line with ``time``, ``event``, ``priority``, ``message`` and the fields beside them."""
    body: dict[str, Value] = {
        "time": _when(wall).isoformat(timespec="milliseconds"),
        "event": event.name,
        "priority": int(event.priority),
        "message": one_line(event.message),
    }
    body.update({key: _plain(value) for key, value in event.fields.items()})
    return json.dumps(body, ensure_ascii=False, allow_nan=False, default=str)


def _when(wall: float) -> datetime:
    """A wall time as UTC; what is no time, or before 1970 or after 9999, is shown as 1970."""
    try:
        return datetime.fromtimestamp(max(wall, 0.0), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _plain(value: Value) -> Value:
    """A field as strict JSON takes it, which has no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return one_line(value) if isinstance(value, str) else value


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return one_line(str(value))
