"""Suspend, stalls, jumps of the wall clock, readings that come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core.decide import decide
from ollama_guard.core.model import (
    HOST,
    Condition,
    Level,
    Preference,
    Rung,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, ModelRule
from ollama_guard.testing.scenario import World, blob_of


def test_a_suspend_of_hours_costs_no_model_and_says_that_it_was_one() -> None:
    """On waking nothing is overdue, silent or idle because of hours that nobody lived through."""
    world = World(other=500 * MIB)
    world.load("idle", 1 * GIB)
    world.load("busy", 1 * GIB, busy=True)
    world.play(5)
    world.api_silent_since = world.now  # the last answer is from before the suspend
    world.now += 7200.0
    before, snapshot = world.state, world.snapshot()
    decision = world.tick()
    assert not decision.actions
    assert not world.state.conditions
    told = [e for e in events(before, world.state, decision, snapshot) if e.name == "guard.stalled"]
    assert "2.0 h" in told[0].message
    world.play(20)
    assert not world.acted()
    assert not world.state.conditions
    world.play(15)
    assert [held.condition for held in world.state.conditions] == [Condition.OLLAMA_UNRESPONSIVE]


def test_a_suspend_during_an_unload_does_not_make_it_a_failure() -> None:
    world = World(other=700 * MIB, unload_seconds=1.0)
    world.load("idle", 2700 * MIB)
    world.play(20, until=lambda w: bool(w.state.in_flight))
    world.now += 3600.0
    world.model("idle").gone_at = world.now + 1.0  # type: ignore[union-attr]  # Ollama slept too
    world.tick()
    assert world.state.in_flight
    assert not world.state.unhonoured
    assert not world.state.finished


@pytest.mark.parametrize("jump", [366 * 86400.0, -366 * 86400.0])
def test_a_jump_of_the_wall_clock_changes_nothing_but_what_is_shown(jump: float) -> None:
    def story(offset: float) -> list[tuple[Rung, str, float]]:
        world = World(other=500 * MIB)
        world.load("idle", 1536 * MIB)
        world.play(5)
        world.hog_rate, world.hog_target = 150 * MIB, 2000 * MIB
        seen = []
        for _ in range(200):
            snapshot = replace(world.snapshot(), wall=1.7e9 + world.now + offset)
            world.settle()
            world.state, decision = decide(world.policy, world.state, snapshot)
            for action in decision.actions:
                world._begin(action)
            seen.append((decision.rung, decision.reason, decision.at))
            world.pass_time(world.state.planned_delay_seconds)
        return seen

    assert story(jump) == story(0.0)


def test_a_container_that_vanishes_for_a_tick_does_not_drop_its_level() -> None:
    world = World(capacity=15 * GIB, other=2 * GIB, limit=2 * GIB)
    world.load("busy", 1900 * MIB, busy=True)
    world.play(5)
    assert world.state.level >= Level.HARD
    limit, world.limit = world.limit, None
    world.tick()
    assert world.state.level >= Level.HARD
    world.limit = limit
    world.pass_time(0.1)
    world.tick()
    assert world.state.level >= Level.HARD
    world.limit = None
    world.play(70)
    assert world.state.domains.keys() == {HOST}


def test_names_of_one_blob_in_two_model_folders_are_judged_as_one() -> None:
    """The catalogue lists the blob twice; the rule of either name holds."""
    world = World(other=700 * MIB).with_policy(models={"b:latest": ModelRule(Preference.OMIT)})
    world.load("a:latest", 2700 * MIB)
    entry = world.catalogue["a:latest"]
    world.catalogue["again"] = replace(entry, names=("b:latest",), models_dir="/elsewhere")
    world.play(40)
    assert entry.blob == blob_of("a:latest")
    assert not world.acted()
