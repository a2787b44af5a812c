"""keep_alive and other durations as Ollama reads them (facts 1.6)."""

from __future__ import annotations

import math
import re
from typing import Any

FOREVER = math.inf
MAX_INT64_SECONDS = (2**63 - 1) / 1e9  # Go's longest duration; expires_at then lies around the year 2318

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


class BadDuration(ValueError):
    """The text of the 400 that Ollama answers."""


def parse_go(text: str) -> float:
    """A Go duration such as ``10m``, ``1h30m``, ``-1m`` or ``0`` in seconds."""
    rest = text.removeprefix("-").removeprefix("+") if text[:1] in "+-" else text
    sign = -1.0 if text.startswith("-") else 1.0
    if rest == "0":
        return 0.0
    if not rest:
        raise BadDuration(f'time: invalid duration "{text}"')
    total = 0.0
    while rest:
        match = _PART.match(rest)
        if match is None:
            raise BadDuration(f'time: invalid duration "{text}"')
        unit = match[2]
        if not unit:
            raise BadDuration(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise BadDuration(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(match[1]) * _UNITS[unit]
        rest = rest[match.end() :]
    return sign * total


def parse_keep_alive(value: Any) -> float | None:
    """A request's ``keep_alive`` in seconds; None when not given, FOREVER when negative.

    Raises:
        BadDuration: with the text of Ollama's 400.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadDuration(f"Unsupported type: '{_go_type(value)}'")
    seconds = parse_go(value) if isinstance(value, str) else float(value)
    return FOREVER if seconds < 0 else seconds


def parse_environment(text: str, default: float) -> float:
    """OLLAMA_KEEP_ALIVE: as a request, but bare numbers are seconds and garbage means the default."""
    if not text:
        return default
    try:
        seconds = float(text) if re.fullmatch(r"[+-]?\d+", text) else parse_go(text)
    except BadDuration:
        return default
    return FOREVER if seconds < 0 else seconds


def _go_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "map[string]interface {}" if isinstance(value, dict) else "[]interface {}"
