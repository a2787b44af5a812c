"""Whether soft, hard and critical stay in order on every machine, not only on today's.

A threshold is a piecewise linear function of the domain's capacity, so comparing two of them where
either bends, and at both ends, compares them everywhere.
"""

from __future__ import annotations

from ollama_guard.core.model import Level
from ollama_guard.core.policy import LARGEST_SHARE, MIB, Thresholds
from ollama_guard.settings.units import LARGEST_BYTES, format_ratio

SMALLEST_BYTES = 256 * MIB  # bytes: no domain that runs a model is smaller


def misplaced(thresholds: Thresholds) -> tuple[str, str] | None:
    """The first key that is out of order with its problem, or None if all are in order."""
    for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
        problem = _impossible(thresholds, level)
        if problem is not None:
            return level.word, problem
    for upper, lower in ((Level.SOFT, Level.HARD), (Level.HARD, Level.CRITICAL)):
        for capacity in _bends(thresholds, upper, lower):
            low, high = thresholds.bytes_of(lower, capacity), thresholds.bytes_of(upper, capacity)
            if low >= high:
                return lower.word, (
                    f"is out of order: with {_size(capacity)} of memory it comes to {_size(low)} and "
                    f"{upper.word} to {_size(high)}; allowed: soft above hard above critical, at every size"
                )
    return None


def _impossible(thresholds: Thresholds, level: Level) -> str | None:
    threshold, most = thresholds.at(level), LARGEST_SHARE[level]
    if threshold.ratio > most or threshold.ceiling_bytes == 0:
        return (
            f"is an impossible threshold for {level.word}; allowed: above 0% and at most {format_ratio(most)}"
        )
    return None


def _bends(thresholds: Thresholds, *levels: Level) -> list[int]:
    """The capacities, in bytes, at which one of these thresholds changes its slope, and both ends."""
    bends = {float(SMALLEST_BYTES), float(LARGEST_BYTES)}
    for level in levels:
        threshold = thresholds.at(level)
        for slope in (threshold.ratio, LARGEST_SHARE[level]):
            for edge in (threshold.floor_bytes, threshold.ceiling_bytes):
                if slope > 0:
                    bends.add(edge / slope)
    return sorted(int(c) for c in bends if SMALLEST_BYTES <= c <= LARGEST_BYTES)


def _size(count: int) -> str:
    """Bytes for a sentence: one decimal is enough to see which is larger, or that they are equal."""
    for name, unit in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= unit:
            return f"{count / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{count} B"
