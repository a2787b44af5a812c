"""How long the sentinel may sleep until it has to look again: until the next full tick, and between two.

While nothing is going on the guard *rests*: full ticks are seconds apart, and between them it only glances
at the few numbers that could end the rest. A glance decides nothing and changes no state, it says when the
next look is due; so memory is looked at as often as if every look were a full tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ollama_guard.core import sane
from ollama_guard.core.conditions import silence_due_at
from ollama_guard.core.foreseen import SETTLED_SILENT_SECONDS
from ollama_guard.core.model import DomainReading, Level, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.pressure import LEVELS, SLOPE_SHORTEST_SECONDS
from ollama_guard.core.runners import BUSY_CPU_SHARE, IDLE_WINDOW_SECONDS
from ollama_guard.core.state import DomainState, RunnerState, State

# Two full ticks are this far apart at most (seconds) while the guard rests; what people read of a calm
# machine is so old at most. A tick with cold caches costs 1.5 to 2.7 ms, what goes on between them 2 ms a
# second, and the guard may take 3 ms a second.
RESTING_SECONDS = 3.0
# Otherwise the sentinel may sleep this long at most, and must not spin faster than this (seconds).
LONGEST_DELAY_SECONDS = 1.0
SHORTEST_DELAY_SECONDS = 0.02
# The fastest that one process was seen to fill memory is 1.5 GiB/s; with two of them (bytes/s).
FASTEST_FILL_BYTES_PER_SECOND = 3 * 1024**3
# When headroom is less than this many times what the last tick saw go, one more look tells a fall from an
# odd sample, as soon as the slope can be told.
SUDDEN_FACTOR = 10


@dataclass(frozen=True, slots=True)
class Glance:
    """What is read between two full ticks.

    ``available_bytes`` of each domain by name (None = can't be read), ``cpu_seconds`` of each runner by its
    key (None = gone, or not told).
    """

    available_bytes: Mapping[str, int | None]
    cpu_seconds: Mapping[tuple[int, int], float | None]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Glance:
        """What a glance would have seen at that moment."""
        return cls(
            {reading.name: reading.available_bytes for reading in snapshot.domains},
            {runner.key: runner.cpu_seconds for runner in snapshot.runners},
        )


def planned_delay(policy: Policy, state: State, snapshot: Snapshot) -> float:
    """Seconds to the next full tick: a rest, else headroom over the fastest plausible fill rate.

    Seconds when relaxed, tens of milliseconds near a threshold or while anything is in flight.
    """
    return delay_seconds(policy, state, sane.snapshot_of(snapshot, state.last_tick_at))


def delay_seconds(policy: Policy, state: State, snapshot: Snapshot) -> float:
    """As `planned_delay`, for a snapshot that has been checked."""
    sudden = any(_sudden(policy, state, reading) for reading in snapshot.domains)
    # A rest that the first glance would end is none: the guard would tick as fast as it can.
    if not sudden and _at_rest(state, snapshot) and look_seconds(policy, snapshot, Glance.of(snapshot)):
        rest = min(RESTING_SECONDS, silence_due_at(policy, state, snapshot) - snapshot.now)
        if rest > LONGEST_DELAY_SECONDS:
            return rest
    delay = SLOPE_SHORTEST_SECONDS if sudden else LONGEST_DELAY_SECONDS
    for reading in snapshot.domains:
        for headroom in _headrooms(policy, reading, reading.available_bytes):
            delay = min(delay, headroom / FASTEST_FILL_BYTES_PER_SECOND)
        if state.domains.get(reading.name, DomainState()).raw >= Level.HARD:
            delay = min(delay, 2 * SHORTEST_DELAY_SECONDS)
    if state.in_flight or any(runner.loaded_at is None for runner in state.runners):
        delay = min(delay, 0.1)
    return max(delay, SHORTEST_DELAY_SECONDS)


def resting(state: State) -> bool:
    """Whether the last tick began a rest, during which `look_seconds` keeps the pace."""
    return state.planned_delay_seconds > LONGEST_DELAY_SECONDS


def look_seconds(policy: Policy, last: Snapshot, glance: Glance) -> float:
    """Seconds until the next look, after a glance in the rest that the tick at ``last`` began.

    0.0 means that the full tick is due now: memory fell by what is worth a second look, a runner works, or
    something came, went or can't be read.
    """
    if glance.available_bytes.keys() != {reading.name for reading in last.domains}:
        return 0.0
    pause = LONGEST_DELAY_SECONDS
    for reading in last.domains:
        available = glance.available_bytes[reading.name]
        headrooms = _headrooms(policy, reading, available)
        if available is None or reading.available_bytes is None or len(headrooms) < len(LEVELS):
            return 0.0
        if min(headrooms) < SUDDEN_FACTOR * (reading.available_bytes - available):
            return 0.0
        pause = min(pause, min(headrooms) / FASTEST_FILL_BYTES_PER_SECOND)
    if any(_works(runner.cpu_seconds, glance.cpu_seconds.get(runner.key)) for runner in last.runners):
        return 0.0
    return max(pause, SHORTEST_DELAY_SECONDS)


def _headrooms(policy: Policy, reading: DomainReading, available: int | None) -> list[int]:
    """Bytes above each threshold that is not crossed."""
    if available is None or not reading.capacity_bytes:
        return []
    thresholds, capacity = policy.thresholds_of(reading.name), max(reading.capacity_bytes, 0)
    headrooms = [available - thresholds.bytes_of(level, capacity) for level in LEVELS]
    return [headroom for headroom in headrooms if headroom >= 0]


def _sudden(policy: Policy, state: State, reading: DomainReading) -> bool:
    """Whether the newest sample lies so far below the one before it that it must be looked into."""
    samples = state.domains.get(reading.name, DomainState()).samples[-2:]
    drop = samples[0][1] - samples[-1][1] if samples else 0
    return any(room < SUDDEN_FACTOR * drop for room in _headrooms(policy, reading, reading.available_bytes))


def _at_rest(state: State, snapshot: Snapshot) -> bool:
    """Whether nothing is going on that the passing of time alone could change, but for Ollama's silence."""
    durable = state.durable
    going_on = (
        state.conditions, state.in_flight, state.unhonoured, state.purged_at,
        durable.condemned, durable.pause_until_at is not None, state.soft_cap is not None,
        not snapshot.hands_alive, len(state.runners) != len(snapshot.runners),
        durable.playbook is not None, state.symptoms.suspected_at is not None,
    )  # fmt: skip
    return (
        not any(going_on)
        and all(
            domain.samples and domain.level == domain.raw == Level.OK for domain in state.domains.values()
        )
        and all(_idle_for_long(runner, snapshot.now) for runner in state.runners)
    )


def _idle_for_long(runner: RunnerState, now: float) -> bool:
    """Loaded, measured, and without work for a while: one that has just ended may well begin again."""
    settled = runner.loaded_at is not None and runner.busy_since_at is None
    return settled and now - runner.last_used_at >= SETTLED_SILENT_SECONDS


def _works(before: float | None, now: float | None) -> bool:
    """Whether an idle runner's CPU time moved by what it could not in an idle window; True if not told."""
    return before is None or now is None or now - before > BUSY_CPU_SHARE * IDLE_WINDOW_SECONDS
