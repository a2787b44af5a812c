"""Runners that a killed server left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core.model import Mode, Preference, Rung
from ollama_guard.core.policy import GIB, MIB, ModelRule, OllamaPolicy, Policy
from ollama_guard.testing.scenario import World


def left_behind(policy: Policy | None = None, *, busy: bool = False) -> World:
    """A model of 5 of 8 GiB has lost its server; the next one serves."""
    world = World(policy=policy or Policy(), capacity=8 * GIB)
    world.load("large", 5 * GIB, busy=busy)
    world.play(5)
    (model,) = world.models
    model.orphan = True
    return world


def test_an_idle_orphan_is_ended_so_that_its_model_can_be_loaded_again() -> None:
    world = left_behind()
    world.play(15)
    assert world.models == []
    assert world.acted() == [(Rung.KILL_RUNNER, ("large",))]
    assert not world.state.durable.strikes
    assert world.state.soft_cap is None
    world.load("large", 5 * GIB, loaded=False)
    world.play(20)
    (model,) = world.models
    assert not model.loading


def test_one_that_still_works_is_left_to_end() -> None:
    world = left_behind(busy=True)
    world.play(30)
    assert len(world.models) == 1
    world.models[0].busy = False
    world.play(20)
    assert world.models == []


@pytest.mark.parametrize(
    "policy",
    [
        Policy(models={"large": ModelRule(Preference.OMIT)}),
        Policy(ollama=OllamaPolicy(mode=Mode.OBSERVE)),
    ],
)
def test_the_owners_word_is_kept(policy: Policy) -> None:
    world = left_behind(policy)
    world.play(60)
    assert len(world.models) == 1


def test_below_soft_it_goes_before_a_model_that_can_be_asked() -> None:
    world = left_behind()
    world.load("small", 300 * MIB)
    world.hog_target = world.hog_rate = world.capacity - world.used - 900 * MIB
    world.play(20)
    assert [model.name for model in world.models] == ["small"]


def test_with_a_live_runner_of_its_model_beside_it_only_the_orphan_goes() -> None:
    world = left_behind()
    world.capacity = 16 * GIB
    orphan = world.models[0]
    world.load("large", 5 * GIB, busy=True)
    world.play(20)
    assert [model.pid for model in world.models] != [orphan.pid]
    assert len(world.models) == 1
    assert replace(world.models[0]).busy
