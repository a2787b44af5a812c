"""Levels of a domain: thresholds, grace, transition, slope, time to exhaustion, forecast.

Pure functions of (policy, the domain's last state, its reading, now). PSI is not used here: it
triggers a look and confirms a freeze, and cries wolf on hosts with swap (design, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median_high

from ollama_guard.core.model import DomainReading, Level
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import DomainState

# Seconds of history that the slope is taken over: long enough to outlive one allocation burst of a
# neighbour, short enough that a job filling 1.5 GiB/s is seen within a quarter of a second.
SLOPE_WINDOW_SECONDS = 0.5
SLOPE_SHORTEST_SECONDS = 0.1
# Samples closer than this say nothing new about the slope (seconds); bounds the history to about 25.
SAMPLE_SPACING_SECONDS = 0.02
# A fall slower than this is not forecast from (bytes/s): it needs minutes to matter on any host.
SLOWEST_FALL_BYTES_PER_SECOND = 1024**2

LEVELS = (Level.SOFT, Level.HARD, Level.CRITICAL)


def observe(
    policy: Policy,
    previous: DomainState | None,
    reading: DomainReading,
    now: float,
    relief_seconds: Mapping[Level, float],
    coming_bytes: int = 0,
    ahead: Mapping[tuple[int, int], int] | None = None,
) -> DomainState:
    """The domain's next state.

    Args:
        policy: the owner's.
        previous: this domain's last state, or None at first sight and after a stall of the guard
            (then every duration starts anew).
        reading: this tick's; an unreadable one keeps level and history as they are.
        now: boottime seconds.
        relief_seconds: how long the relief that each level calls for is expected to take.
        coming_bytes: what relief in flight will still bring back; the forecast counts on it.
        ahead: what each load in flight will still take, in bytes, by (pid, start_ticks). A load whose end is
            foreseen is no reason to think that memory falls for ever: `loads` judges whether it fits.
    """
    state = previous or DomainState(since_at=now)
    available, capacity = reading.available_bytes, reading.capacity_bytes
    if available is None or not capacity or capacity < 0:
        return replace(
            state, urgent=Level.OK, raw=Level.OK, slope_bytes_per_second=None, samples=(), committed=()
        )
    # Page cache that is read back counts as used from one moment to the next, which is no fall.
    whole = available + (reading.reread_bytes or 0)
    samples = _remember(state.samples, now, whole)
    slope = slope_of(samples, now)
    state = _commit(state, ahead or {}, whole, now)
    unforeseen = slope_of(state.committed, now)
    thresholds = policy.thresholds_of(reading.name)
    limits = {level: thresholds.bytes_of(level, capacity) for level in LEVELS}
    raw = max((level for level in LEVELS if available < limits[level]), default=Level.OK)
    below_since = None if raw is Level.OK else (now if state.below_since_at is None else state.below_since_at)
    urgent = max(
        raw if raw > Level.SOFT else Level.OK,
        _forecast(available + coming_bytes, unforeseen, limits, relief_seconds),
        _patient_soft(available, unforeseen, limits, below_since, now, thresholds.grace_seconds),
    )
    state = replace(
        state,
        samples=samples,
        slope_bytes_per_second=slope,
        raw=raw,
        urgent=urgent,
        below_since_at=below_since,
    )
    return _settle(state, max(urgent, min(raw, state.level)), now, policy.transition_seconds)


def absent(policy: Policy, previous: DomainState, now: float) -> DomainState:
    """The next state of a domain that is not read at all any more: nothing urgent, its level fades."""
    state = replace(
        previous, urgent=Level.OK, raw=Level.OK, slope_bytes_per_second=None, samples=(), committed=()
    )
    return _settle(state, Level.OK, now, policy.transition_seconds)


def slope_of(samples: tuple[tuple[float, int], ...], now: float) -> float | None:
    """Bytes per second that available changes by; None while too little is known.

    The median of the slopes from each sample of the last half second to the newest (a one-sided
    Theil-Sen estimator), or the same up to the sample before it if that falls less: so no single odd
    sample, be it the newest, makes memory fall.
    """
    newest, before = _slope_to_last(samples, now), _slope_to_last(samples[:-1], now)
    return None if newest is None or before is None else max(newest, before)


def _slope_to_last(samples: tuple[tuple[float, int], ...], now: float) -> float | None:
    if not samples:
        return None
    at, newest = samples[-1]
    slopes = [
        (newest - value) / (at - then)
        for then, value in samples[:-1]
        if at - then >= SLOPE_SHORTEST_SECONDS
        and now - then <= max(SLOPE_WINDOW_SECONDS, 2 * (now - samples[-2][0]))
    ]
    return median_high(slopes) if slopes else None


def seconds_to(available_bytes: int, threshold_bytes: int, slope: float | None) -> float | None:
    """Seconds until available falls to the threshold at this slope; 0 if it is there, None if never."""
    if available_bytes <= threshold_bytes:
        return 0.0
    if slope is None or slope > -SLOWEST_FALL_BYTES_PER_SECOND:
        return None
    return (available_bytes - threshold_bytes) / -slope


def _commit(
    state: DomainState, ahead: Mapping[tuple[int, int], int], available: int, now: float
) -> DomainState:
    """The history of what is available once the loads in flight are done.

    A new load moves the whole history down by what it will take, so that its birth is no fall.
    """
    born = sum(rest for key, rest in ahead.items() if key not in state.loads)
    history = tuple((at, value - born) for at, value in state.committed) if born else state.committed
    committed = _remember(history, now, available - sum(ahead.values()))
    return replace(state, committed=committed, loads=tuple(ahead))


def _remember(
    samples: tuple[tuple[float, int], ...], now: float, available: int
) -> tuple[tuple[float, int], ...]:
    if samples and now <= samples[-1][0]:
        return samples
    # The newest sample moves on until it is far enough from the one before it, so that even the fastest
    # ticks make history.
    if len(samples) > 1 and now - samples[-2][0] < SAMPLE_SPACING_SECONDS:
        return (*samples[:-1], (now, available))
    kept = tuple(sample for sample in samples if now - sample[0] <= 2 * SLOPE_WINDOW_SECONDS)
    # When ticks are far apart the last sample is still worth more than nothing.
    return (*(kept or samples[-1:]), (now, available))


def _forecast(
    available: int, slope: float | None, limits: Mapping[Level, int], relief_seconds: Mapping[Level, float]
) -> Level:
    """The highest level that would be crossed before its relief could be done."""
    crossed = Level.OK
    for level in LEVELS:
        seconds = seconds_to(available, limits[level], slope) if available > limits[level] else None
        if seconds is not None and seconds < relief_seconds.get(level, 0.0):
            crossed = level
    return crossed


def _patient_soft(
    available: int,
    slope: float | None,
    limits: Mapping[Level, int],
    since: float | None,
    now: float,
    grace: float,
) -> Level:
    """Soft counts after its grace, or at once when hard would come before the grace is over."""
    if since is None:
        return Level.OK
    left = grace - (now - since)
    to_hard = seconds_to(available, limits[Level.HARD], slope)
    return Level.SOFT if left <= 0 or (to_hard is not None and to_hard < left) else Level.OK


def _settle(state: DomainState, level: Level, now: float, transition: float) -> DomainState:
    """Rise at once; fall only after a whole transition below, and then to the worst seen in it."""
    if level > state.level:
        return replace(state, level=level, since_at=now, calm_since_at=None, calm_peak=Level.OK)
    if level == state.level:
        return replace(state, calm_since_at=None, calm_peak=Level.OK)
    if state.calm_since_at is None:
        return replace(state, calm_since_at=now, calm_peak=level)
    peak = max(state.calm_peak, level)
    if now - state.calm_since_at < transition:
        return replace(state, calm_peak=peak)
    return replace(state, level=peak, since_at=now, calm_since_at=None, calm_peak=Level.OK)
