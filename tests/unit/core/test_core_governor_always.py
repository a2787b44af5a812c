"""What holds of the keep_alive governor whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import Phase, given, seed, settings

from ollama_guard.core import governor
from ollama_guard.core.decide import decide
from ollama_guard.core.model import Activity, Decision, Level, Preference, Rung, Snapshot
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GovernorPolicy
from ollama_guard.core.runners import census
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable, State
from ollama_guard.testing.scenario import World
from unit.core.strategies import NAMES, Step, Tale, enforcing, happen, tales


class Pinned:
    """A tale in which every client keeps its model for ever, under a governor in a hurry."""

    def __init__(self, tale: Tale) -> None:
        hurry = GovernorPolicy(max_keep_alive_seconds=1.0)
        self.tale = replace(tale, policy=replace(tale.policy, governor=hurry))

    def told(self, world: World) -> Iterator[tuple[State, State, Snapshot, Decision]]:
        """Each tick of the tale, and of a while after it in which nobody asks for anything."""
        quiet = (*(Step("idle", name, ticks=1) for name in NAMES), Step("answers", ticks=20, dt=1.0))
        for step in (*self.tale.steps, *quiet):
            if step.what in ("by_hand", "release"):
                continue
            happen(world, step)
            for _ in range(step.ticks):
                for model in world.models:
                    model.expires_at = model.expires_at or 1e10
                world.settle()
                world.react()
                before, snapshot = world.state, world.snapshot()
                decision = world.tick()
                yield before, world.state, snapshot, decision
                world.pass_time(1.0 if step.dt is None else step.dt)


def lets_go(decision: Decision) -> bool:
    return decision.rung is Rung.KEEP_ALIVE


def test_the_tales_come_to_letting_go() -> None:
    """What holds at each moment below says nothing of what no tale comes to."""
    reached = 0

    @seed(1)
    @settings(max_examples=100, phases=[Phase.generate], database=None)
    @given(tales(enforcing))
    def count(tale: Tale) -> None:
        nonlocal reached
        story = Pinned(tale)
        reached += any(lets_go(decision) for *_, decision in story.told(story.tale.begin()))

    count()
    assert reached >= 5


@settings(max_examples=150)
@given(tales(enforcing))
def test_it_lets_go_only_of_idle_models_that_its_owner_lets_go_while_memory_is_short(tale: Tale) -> None:
    story = Pinned(tale)
    for before, after, snapshot, decision in story.told(story.tale.begin()):
        if not lets_go(decision):
            continue
        seen = replace(after, in_flight=before.in_flight)
        runners = {r.key: r for r in census(story.tale.policy, seen, snapshot)}
        scene = Scene(story.tale.policy, seen, snapshot, tuple(runners.values()))
        for action in decision.actions:
            assert action.key is not None
            runner = runners[action.key]
            assert runner.activity is Activity.IDLE
            assert runner.rule.preference is not Preference.OMIT
            assert runner.idle_seconds >= governor.bound_seconds(scene, runner) - 1e-6
            assert max(after.domains[name].level for name in runner.reading.domains) > Level.OK
        assert not snapshot.blind
        assert after.durable.playbook is None


@given(tales(enforcing))
def test_it_never_acts_nor_says_that_it_would_bound_anything_while_it_may_only_watch(tale: Tale) -> None:
    story = Pinned(tale)
    world = story.tale.begin()
    world.state = State(durable=Durable(pause_until_at=world.now + 1e6))
    for before, after, snapshot, decision in story.told(world):
        assert not after.in_flight
        told = events(before, after, decision, snapshot)
        assert not any(event.name == "keepalive.capped" for event in told)


@given(tales(enforcing))
def test_blind_it_lets_nobody_go(tale: Tale) -> None:
    story = Pinned(tale)
    for before, _, snapshot, _ in story.told(story.tale.begin()):
        _, decision = decide(story.tale.policy, before, replace(snapshot, blind=("whose pid 7 is",)))
        assert not lets_go(decision)


@given(tales(enforcing))
def test_switched_off_it_changes_no_decision_and_remembers_nothing(tale: Tale) -> None:
    """So a trace of a guard that had no governor yet replays as it was."""
    off = replace(tale.policy, governor=GovernorPolicy(enabled=False))
    story = Pinned(tale)
    story.tale = replace(tale, policy=off)
    for _, after, _, decision in story.told(story.tale.begin()):
        assert not lets_go(decision)
        assert after.governed == {}
