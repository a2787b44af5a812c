"""When the guard rests, and that resting costs no promise: memory is looked at as often as it can fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.model import CONTAINER, HOST, Condition, DomainReading, Level, Request, Snapshot
from ollama_guard.core.pace import (
    FASTEST_FILL_BYTES_PER_SECOND,
    LONGEST_DELAY_SECONDS,
    RESTING_SECONDS,
    SHORTEST_DELAY_SECONDS,
    Glance,
    look_seconds,
    resting,
)
from ollama_guard.core.policy import GIB, MIB, CapPolicy, Policy
from ollama_guard.core.state import Condemned, State
from ollama_guard.testing.scenario import GLANCE_SECONDS, Model, World, blob_of

SOFT_BYTES = Policy().host.soft.bytes_of(8 * GIB)


def calm(**options: object) -> World:
    """Two idle models on a machine with a lot of memory, watched for long enough."""
    world = World(capacity=8 * GIB, **options)  # type: ignore[arg-type]  # the tests' own words
    world.load("one", 1 * GIB)
    world.load("two", 1 * GIB)
    world.play(20)
    return world


def model(world: World) -> Model:
    """One of the two."""
    found = world.model("one")
    assert found is not None
    return found


def test_a_calm_guard_ticks_once_in_a_rest() -> None:
    world = calm()
    ticked = len(world.decisions)
    world.play(60)
    assert resting(world.state)
    assert len(world.decisions) - ticked == 60 / RESTING_SECONDS


@pytest.mark.parametrize("spare_bytes", [-1, 0, 1])
def test_memory_right_at_a_threshold_does_not_make_it_spin(spare_bytes: int) -> None:
    world = calm()
    world.hog_taken = world.hog_target = world.capacity - world.used - SOFT_BYTES - spare_bytes
    ticked = len(world.decisions)
    world.play(2)
    assert len(world.decisions) - ticked <= 2 / SHORTEST_DELAY_SECONDS + 1


def busy(world: World) -> None:
    model(world).busy = True


def loading(world: World) -> None:
    world.load("three", 1 * GIB, loaded=False).rate = 1 * MIB


def paused(world: World) -> None:
    world.requests = (Request(1, "pause", "", 600.0),)


def condemned(world: World) -> None:
    record = Condemned(blob_of("bad"), ("bad",), world.now, world.now + 600, 600.0, 64 * GIB)
    world.state = replace(world.state, durable=replace(world.state.durable, condemned=(record,)))


def handless(world: World) -> None:
    world.hands_alive = False


def short(world: World) -> None:
    world.other += world.capacity - world.used - SOFT_BYTES + 10 * MIB


def capped(world: World) -> None:
    world.state = replace(world.state, soft_cap=1)


def silent(world: World) -> None:
    world.api_silent_since = world.now - 60


@pytest.mark.parametrize("trouble", [busy, loading, paused, condemned, handless, short, capped, silent])
def test_a_guard_with_anything_in_hand_does_not_rest(trouble: Callable[[World], None]) -> None:
    world = calm()
    trouble(world)
    world.play(4)
    for _ in range(20):
        world.tick()
        assert world.state.planned_delay_seconds <= LONGEST_DELAY_SECONDS
        world.pass_time(world.state.planned_delay_seconds)


def test_the_silence_of_ollama_is_told_as_soon_as_without_rests() -> None:
    world = calm()
    world.api_silent_since = world.now
    world.play(60, until=lambda world: bool(world.state.conditions))
    assert [held.condition for held in world.state.conditions] == [Condition.OLLAMA_UNRESPONSIVE]
    late = world.now - world.api_silent_since - world.policy.ollama.unresponsive_after_seconds
    assert 0 <= late <= 2 * LONGEST_DELAY_SECONDS


def test_a_runner_that_begins_to_work_ends_the_rest_and_is_busy() -> None:
    """Also when that is a small share of a long gap between two samples: it may have worked just now."""
    world = calm()
    model(world).busy = True
    began = world.now
    world.play(5)
    (since,) = (runner.busy_since_at for runner in world.state.runners if runner.busy_since_at is not None)
    assert since - began <= GLANCE_SECONDS
    quiet = calm()
    quiet.pass_time(2.8)
    model(quiet).cpu_seconds += 0.12
    quiet.tick()
    assert [runner.busy_since_at is None for runner in quiet.state.runners] == [False, True]


def test_a_stall_of_seconds_is_one_after_a_rest_too() -> None:
    world = calm()
    world.tick()
    world.now += RESTING_SECONDS + 2.1
    world.tick()
    assert world.state.stalled_seconds > 0
    world = calm()
    world.tick()
    world.now += RESTING_SECONDS + 1.9
    world.tick()
    assert world.state.stalled_seconds == 0


def test_a_job_that_fills_memory_in_a_second_finds_a_rested_guard_in_time() -> None:
    """With as much memory free as the fastest filler takes in two seconds, on a machine without swap."""
    world = calm(other=512 * MIB)
    world.hog_rate, world.hog_target = 3 * GIB // 2, 6 * GIB
    world.play(10, until=lambda world: bool(world.acted()))
    assert world.acted()
    assert world.capacity - world.used > 0
    assert world.oom_kills == 0


LAST = Snapshot(0.0, 0.0, (DomainReading(HOST, 8 * GIB, 6 * GIB), DomainReading(CONTAINER, 4 * GIB, 3 * GIB)))


@pytest.mark.parametrize(
    "available",
    [
        {HOST: 6 * GIB},
        {HOST: 6 * GIB, CONTAINER: 3 * GIB, "container:b": 3 * GIB},
        {HOST: None, CONTAINER: 3 * GIB},
        {HOST: 6 * GIB, CONTAINER: 100 * MIB},
        {HOST: 6 * GIB, CONTAINER: 0},
        {HOST: 6 * GIB - 500 * MIB, CONTAINER: 3 * GIB},
    ],
    ids=["gone", "new", "unread", "below soft", "empty", "fell by a tenth of what is left"],
)
def test_a_glance_at_other_memory_calls_for_a_tick(available: dict[str, int | None]) -> None:
    assert look_seconds(Policy(), LAST, Glance.of(LAST)) == pytest.approx(0.8, abs=0.2)
    assert look_seconds(Policy(), LAST, Glance(available, {})) == 0


@given(
    st.integers(SOFT_BYTES + 64 * MIB, 8 * GIB),
    st.lists(st.tuples(st.floats(0.01, 2.0), st.integers(-GIB, FASTEST_FILL_BYTES_PER_SECOND)), max_size=8),
    st.floats(0.05, 0.25),
)
def test_no_fill_gets_below_a_threshold_unseen(
    start: int, pieces: list[tuple[float, int]], births_seconds: float
) -> None:
    """However memory goes, at the fastest rate at most, the look that ends the rest is one step late."""
    policy = Policy()
    last = Snapshot(0.0, 0.0, (DomainReading(HOST, 8 * GIB, start),))
    curve = [*pieces, (8.0, FASTEST_FILL_BYTES_PER_SECOND)]

    def available(at: float) -> int:
        left = start
        for seconds, rate in curve:
            spent = min(at, seconds)
            left, at = min(left - int(rate * spent), 8 * GIB), at - spent
        return left

    now, pause = 0.0, look_seconds(policy, last, Glance.of(last))
    while pause:
        now += min(pause, births_seconds)
        pause = look_seconds(policy, last, Glance({HOST: available(now)}, {}))
    assert available(now) >= SOFT_BYTES - SHORTEST_DELAY_SECONDS * FASTEST_FILL_BYTES_PER_SECOND


# The look at the threshold itself, and the next one.
LATEST_SECONDS = 2 * SHORTEST_DELAY_SECONDS


@given(
    st.integers(64 * MIB, FASTEST_FILL_BYTES_PER_SECOND),
    st.floats(0.0, RESTING_SECONDS),
    st.integers(512, 4096),
)
def test_the_level_changes_as_soon_as_the_fill_allows(rate: int, ahead: float, other_mib: int) -> None:
    """From a rest into soft, told with grace 0: never later than one shortest delay after the crossing."""
    thresholds = replace(Policy().host, grace_seconds=0.0)
    world = calm(other=other_mib * MIB, policy=Policy(host=thresholds, cap=CapPolicy()))
    world.play(ahead)
    assert world.state.level is Level.OK
    world.hog_rate, world.hog_target = rate, 8 * GIB
    crossing = world.now + (world.capacity - world.used - SOFT_BYTES) / rate
    world.play(120, until=lambda world: world.state.level > Level.OK)
    assert world.decisions[-1].level > Level.OK
    assert world.decisions[-1].at <= crossing + LATEST_SECONDS


def test_before_the_first_tick_nothing_rests() -> None:
    assert not resting(State())
