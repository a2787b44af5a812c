"""Loops without end, and logs that fill up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.model import (
    ActionKind,
    Mode,
    Outcome,
    OutcomeKind,
    Rung,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, OllamaPolicy, Policy
from ollama_guard.testing.scenario import World


def test_an_unload_whose_outcome_never_comes_is_not_tried_for_ever() -> None:
    world = World(other=700 * MIB)
    world.load("deaf", 2700 * MIB).honours_unload = False
    for _ in range(int(120 / 0.1)):
        world.tick()
        world.pass_time(0.1)
    unloads = [names for rung, names in world.acted() if rung is Rung.UNLOAD_IDLE]
    assert 1 <= len(unloads) <= 2


def test_an_unload_that_is_skipped_is_not_tried_each_tick() -> None:
    world = World(other=700 * MIB)
    world.load("away", 2700 * MIB).honours_unload = False
    for _ in range(300):
        for action in world.tick().actions:
            skipped = Outcome(action.id, OutcomeKind.SKIPPED, world.now, detail="not touched")
            world.state = absorb(world.policy, world.state, skipped)
        world.pass_time(0.1)
    assert len(world.acted()) <= 30 / 2 + 1


def test_observing_tells_a_ghost_once_a_minute_at_most() -> None:
    world = World(policy=Policy(ollama=OllamaPolicy(mode=Mode.OBSERVE)))
    ghost = world.load("ghost", 300 * MIB)
    world.play(5)
    listed = world.snapshot().api.loaded
    world.models.remove(ghost)
    lines = 0
    for _ in range(100):
        before, snapshot = world.state, world.snapshot()
        snapshot = replace(snapshot, api=replace(snapshot.api, loaded=listed))
        world.state, decision = decide(world.policy, before, snapshot)
        lines += sum(e.name == "decision.made" for e in events(before, world.state, decision, snapshot))
        world.pass_time(0.5)
    assert lines == 1


@pytest.mark.parametrize("seen_dead", [False, True])
def test_a_ghost_is_cleared_once_and_never_while_its_model_loads_again(*, seen_dead: bool) -> None:
    """Also where its runner was seen as a corpse before it was seen no more."""
    world = World()
    ghost = world.load("ghost", 300 * MIB)
    world.play(5)
    listed = world.snapshot().api.loaded
    if seen_dead:
        ghost.process_state = "Z"
        world.tick()
        world.pass_time(0.25)
    world.models.remove(ghost)
    purges = []
    for tick in range(60):
        if tick == 20:
            world.load("ghost", 300 * MIB, loaded=False).rate = 10 * MIB
            world.state = replace(world.state, purged_at={})
        snapshot = world.snapshot()
        snapshot = replace(snapshot, api=replace(snapshot.api, loaded=listed, version="0.20.0"))
        world.state, decision = decide(world.policy, world.state, snapshot)
        for action in decision.actions:
            purges.append((tick, action.kind))
            world.state = absorb(world.policy, world.state, Outcome(action.id, OutcomeKind.DONE, world.now))
        world.pass_time(0.25)
    assert [kind for _, kind in purges] == [ActionKind.PURGE_GHOST]
    assert purges[0][0] < 20


def test_a_condemned_blob_whose_kill_fails_is_not_shot_at_each_tick() -> None:
    world = World(other=3 * GIB)
    for _ in range(2):
        world.load("mid", 1 * GIB, loaded=False)
        world.play(5, until=lambda w: not w.model("mid"))
        world.play(1)
    assert world.state.durable.condemned
    begun = len(world.acted())
    world.load("mid", 1 * GIB, loaded=False).dies = False
    for _ in range(100):
        for action in world.tick().actions:
            failed = Outcome(action.id, OutcomeKind.FAILED, world.now, detail="EPERM")
            world.state = absorb(world.policy, world.state, failed)
        world.now += 0.05
    assert len(world.acted()) - begun <= 2


def test_holding_between_two_domains_does_not_fill_the_log() -> None:
    """Now one domain is the worst and now the other: a few lines, not one a tick."""
    world = World(capacity=4 * GIB, other=1 * GIB, limit=2 * GIB)
    world.load("busy", 1900 * MIB, busy=True)
    lines = 0
    for tick in range(400):
        world.other = (1900 if tick % 2 else 1000) * MIB
        before, snapshot = world.state, world.snapshot()
        world.state, decision = decide(world.policy, before, snapshot)
        if decision.actions:
            world.state = replace(world.state, in_flight=())
        lines += sum(e.name == "decision.held" for e in events(before, world.state, decision, snapshot))
        world.pass_time(0.05)
    assert lines <= 10
