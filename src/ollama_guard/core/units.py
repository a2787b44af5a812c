"""Numbers as people read them in a sentence."""

from __future__ import annotations

from ollama_guard.core.policy import GIB, MIB


def bytes_text(count: float) -> str:
    """``1.5 GiB``, ``612 MiB``: two or three significant figures, never a long number."""
    if abs(count) >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.0f} MiB"


def count_text(number: int, what: str) -> str:
    """``1 model``, ``0 models``, ``3 models``; for words whose plural is one more ``s``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def rate_text(per_day: float) -> str:
    """``3 times a day``, ``once a week``, ``less than once a week``."""
    for count, unit in ((per_day, "day"), (per_day * 7, "week")):
        if count >= 1.5:
            return f"{count:.0f} times a {unit}"
        if count >= 0.75:
            return f"once a {unit}"
    return "less than once a week"


def seconds_text(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min``, ``2.0 h``, ``7.0 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
