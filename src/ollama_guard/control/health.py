"""Who is well: the guard, and Ollama. Short memory is neither's illness: it is what the guard is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Seconds without news from the sentinel after which the guard itself counts as unhealthy (design, section 7).
STALE_SECONDS = 60.0
# Conditions under which the guard can't do its work, and those under which Ollama doesn't do its own.
GUARD_AILMENTS = ("Blind",)
OLLAMA_AILMENTS = ("OllamaUnresponsive", "Frozen")


def guard_ailment(status: Mapping[str, Any], age_seconds: float) -> str:
    """Why the guard itself is not well, as one sentence; "" when it is."""
    if age_seconds > STALE_SECONDS:
        return f"no news from the sentinel for {age_seconds:.0f} s"
    return _held(status, GUARD_AILMENTS)


def ollama_ailment(status: Mapping[str, Any]) -> str:
    """Why Ollama is not well, as one sentence; "" when it is."""
    return _held(status, OLLAMA_AILMENTS)


def _held(status: Mapping[str, Any], ailments: tuple[str, ...]) -> str:
    held = status.get("conditions")
    for condition in held if isinstance(held, list) else []:
        if isinstance(condition, dict) and condition.get("condition") in ailments:
            return f"{condition['condition']}: {condition.get('reason')}"
    return ""
