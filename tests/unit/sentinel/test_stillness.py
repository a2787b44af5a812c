"""Where the time went when the guard stood still."""

from __future__ import annotations

import pytest

from ollama_guard.core.events import Event
from ollama_guard.sentinel.stillness import ASLEEP, Stillness

STALLED = Event("guard.stalled", "the guard itself stood still for 3.0 s", fields={"gap_seconds": 3.0})


class Clock:
    """Steps when told."""

    now = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now

    def step(self, seconds: float) -> None:
        """Go on."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stillness(clock: Clock) -> Stillness:
    return Stillness(clock)


def test_the_part_that_took_longest_beyond_its_plan_is_named(clock: Clock, stillness: Stillness) -> None:
    stillness.timed(ASLEEP, lambda: clock.step(1.2), planned_seconds=1.0)
    stillness.timed("guarding", lambda: clock.step(0.5))
    (told,) = stillness.told([STALLED])
    assert (told.fields["longest_part"], told.fields["longest_seconds"]) == ("guarding", 0.5)
    assert told.fields["gap_seconds"] == 3.0


def test_a_part_that_breaks_is_timed_as_well_and_its_error_passes_on(
    clock: Clock, stillness: Stillness
) -> None:
    def broken() -> None:
        clock.step(2.0)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        stillness.timed("guarding", broken)
    assert stillness.told([STALLED])[0].fields["longest_seconds"] == 2.0


def test_each_round_is_told_for_itself(clock: Clock, stillness: Stillness) -> None:
    stillness.timed("guarding", lambda: clock.step(2.0))
    stillness.told([])
    assert stillness.told([STALLED])[0].fields["longest_seconds"] == 0.0


def test_waiting_for_a_processor_is_in_the_sentence(stillness: Stillness) -> None:
    (told,) = stillness.told([STALLED])
    assert told.fields["queued_seconds"] is not None
    assert told.message.endswith("of it waiting for a processor")


def test_other_events_stay_as_they_are(stillness: Stillness) -> None:
    other = Event("level.changed", "host: ok -> soft")
    assert stillness.told([other]) == (other,)
