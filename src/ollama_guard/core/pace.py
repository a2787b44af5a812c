"""How long the sentinel may sleep until it has to look again."""

from __future__ import annotations

from ollama_guard.core import sane
from ollama_guard.core.model import Level, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.pressure import SLOPE_SHORTEST_SECONDS
from ollama_guard.core.state import DomainState, State

# The sentinel may sleep this long at most, and must not spin faster than this (seconds).
LONGEST_DELAY_SECONDS = 1.0
SHORTEST_DELAY_SECONDS = 0.02
# The fastest that one process was seen to fill memory is 1.5 GiB/s; with two of them (bytes/s).
FASTEST_FILL_BYTES_PER_SECOND = 3 * 1024**3
# When headroom is less than this many times what the last tick saw go, one more look tells a fall from an
# odd sample, as soon as the slope can be told.
SUDDEN_FACTOR = 10


def planned_delay(policy: Policy, state: State, snapshot: Snapshot) -> float:
    """Seconds to the next full tick: headroom over the fastest plausible fill rate.

    Seconds when relaxed, tens of milliseconds near a threshold or while anything is in flight.
    """
    return delay_seconds(policy, state, sane.snapshot_of(snapshot, state.last_tick_at))


def delay_seconds(policy: Policy, state: State, snapshot: Snapshot) -> float:
    """As `planned_delay`, for a snapshot that has been checked."""
    delay = LONGEST_DELAY_SECONDS
    for reading in snapshot.domains:
        if reading.available_bytes is None or not reading.capacity_bytes:
            continue
        thresholds = policy.thresholds_of(reading.name)
        for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
            headroom = reading.available_bytes - thresholds.bytes_of(level, max(reading.capacity_bytes, 0))
            if 0 < headroom < SUDDEN_FACTOR * _last_drop(state, reading.name):
                delay = min(delay, SLOPE_SHORTEST_SECONDS)
            if headroom > 0:
                delay = min(delay, headroom / FASTEST_FILL_BYTES_PER_SECOND)
        if state.domains.get(reading.name, DomainState()).raw >= Level.HARD:
            delay = min(delay, 2 * SHORTEST_DELAY_SECONDS)
    if state.in_flight or any(runner.loaded_at is None for runner in state.runners):
        delay = min(delay, 0.1)
    return max(delay, SHORTEST_DELAY_SECONDS)


def _last_drop(state: State, name: str) -> int:
    """Bytes by which the newest sample of a domain lies below the one before it."""
    samples = state.domains.get(name, DomainState()).samples[-2:]
    return max(0, samples[0][1] - samples[-1][1]) if samples else 0
