"""What the log says of a tick, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core.decide import decide
from ollama_guard.core.events import Event
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import MIB
from ollama_guard.core.units import count_text
from ollama_guard.testing.scenario import World


def told_at_relief() -> tuple[Event, ...]:
    """The events of the tick in which an idle model has to go."""
    world = World(other=500 * MIB)
    world.load("big", 1536 * MIB)
    world.load("tiny", 200 * MIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 150 * MIB, 2200 * MIB
    for _ in range(1000):
        before = world.state
        decision = world.tick()
        if decision.actions:
            return events(before, world.state, decision, world.snapshot())
        world.pass_time(0.1)
    raise AssertionError("no relief")


def test_a_decision_is_told_between_what_called_for_it_and_what_follows_from_it() -> None:
    told = told_at_relief()
    assert [event.name for event in told] == [
        "level.changed", "condition.changed", "keepalive.capped", "keepalive.capped",
        "decision.made", "cap.changed",
    ]  # fmt: skip
    assert told[-1].message == "at most 1 model stays loaded (before: no bound)"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, 1, "at most 1 model stays loaded (before: no bound)"),
        (None, 2, "at most 2 models stay loaded (before: no bound)"),
        (1, 2, "at most 2 models stay loaded (before: 1)"),
        (3, None, "as many models as fit may stay loaded again (before: at most 3)"),
    ],
)
def test_a_change_of_the_cap_is_one_sentence_that_needs_no_glossary(
    before: int | None, after: int | None, said: str
) -> None:
    world = World()
    world.play(5)
    quiet, snapshot = world.state, world.snapshot()
    state, decision = decide(world.policy, quiet, snapshot)
    told = events(replace(quiet, soft_cap=before), replace(state, soft_cap=after), decision, snapshot)
    assert [(event.name, event.message) for event in told] == [("cap.changed", said)]
    assert told[0].fields == {"soft": after, "from": before}


def test_one_of_a_thing_is_not_told_as_many() -> None:
    assert [count_text(n, "model") for n in (0, 1, 2)] == ["0 models", "1 model", "2 models"]
