"""Whole stories of a small host, told to the core with a stepped clock."""

from __future__ import annotations

import pytest

from ollama_guard.core.model import Activity, Level, Mode, OutcomeKind, Preference, Request, Rung
from ollama_guard.core.policy import GIB, MIB, CapPolicy, ModelRule, OllamaPolicy, Policy, Protect
from ollama_guard.settings.compiler import compile_text
from ollama_guard.testing.scenario import World, blob_of


def rungs(world: World) -> list[Rung]:
    return [d.rung for d in world.decisions if d.actions]


HOSTS = [4 * GIB, 15 * GIB]


def host(capacity: int, rate: int) -> World:
    """A host with an empty configuration file, an idle and a busy model, and a job that needs half of it."""
    world = World(capacity=capacity, other=capacity // 8, policy=compile_text("", "an empty file"))
    world.load("big", capacity * 3 // 8)
    world.load("tiny", capacity // 20, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = rate, capacity * 17 // 32
    return world


@pytest.mark.parametrize("capacity", HOSTS)
@pytest.mark.parametrize("rate", [150 * MIB, 1500 * MIB])
def test_a_hog_costs_only_the_idle_model(rate: int, capacity: int) -> None:
    """The job finishes, the busy model lives, the idle one goes, and memory is never critical."""
    world = host(capacity, rate)
    world.play(capacity / rate + 30)
    assert world.hog_taken == world.hog_target
    assert world.model("tiny")
    assert not world.model("big")
    assert world.oom_kills == 0
    assert [action.names for action, _ in world.outcomes] == [("big",)]
    assert max(decision.level for decision in world.decisions) < Level.CRITICAL


@pytest.mark.parametrize("capacity", HOSTS)
def test_the_same_hog_is_fatal_without_the_guard(capacity: int) -> None:
    world = host(capacity, 150 * MIB)
    while world.hog_taken < world.hog_target and not world.oom_kills:
        world.pass_time(0.1)
    assert world.oom_kills == 1


def test_a_load_that_cannot_fit_is_aborted_early_and_its_blob_condemned() -> None:
    """Aborted at no more than 30 % of its size, nothing else is touched, the second abort condemns it."""
    world = World(other=500 * MIB)
    world.load("tiny", 200 * MIB)
    world.play(5)
    for _ in range(4):
        loading = world.load("huge", 8 * GIB, loaded=False)
        world.play(5, until=lambda w: not w.model("huge"))
        assert loading.taken <= 0.3 * loading.size
        world.play(1)
    assert world.model("tiny")
    assert {action.names for action, _ in world.outcomes} == {("huge",)}
    (record,) = world.state.durable.condemned
    assert record.blob == blob_of("huge")
    assert record.kills == 2


def test_a_condemned_blob_is_pardoned_when_it_has_fitted_for_a_transition() -> None:
    world = World(other=3 * GIB)
    for _ in range(2):
        world.load("mid", 1 * GIB, loaded=False)
        world.play(5, until=lambda w: not w.model("mid"))
        world.play(1)
    assert world.state.durable.condemned
    world.other = 1 * GIB
    world.play(59)
    assert world.state.durable.condemned
    world.play(5)
    assert not world.state.durable.condemned


def test_a_second_conviction_doubles_the_term() -> None:
    world = World(other=3 * GIB)
    for _ in range(2):
        world.load("mid", 1 * GIB, loaded=False)
        world.play(5, until=lambda w: not w.model("mid"))
        world.play(1)
    world.play(601)
    world.load("mid", 1 * GIB, loaded=False)
    world.play(5, until=lambda w: not w.model("mid"))
    world.play(1)
    (record,) = world.state.durable.condemned
    assert record.term_seconds == 1200


def test_a_load_that_fits_with_the_idle_gone_gets_its_room() -> None:
    world = World(other=500 * MIB)
    world.load("old", 1536 * MIB)
    world.play(5)
    world.load("new", 2 * GIB, loaded=False)
    world.play(10)
    assert world.model("new")
    assert not world.model("old")
    assert rungs(world) == [Rung.UNLOAD_IDLE]


def test_everything_busy_at_critical_costs_exactly_one_runner() -> None:
    """The least harm that reaches the target: of three busy ones, the one that suffices."""
    world = World(other=500 * MIB)
    for name, size in (("a", 150 * MIB), ("b", 900 * MIB), ("c", 1500 * MIB)):
        world.load(name, size, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 300 * MIB, 1100 * MIB
    world.play(30)
    killed = [action.names for action, outcome in world.outcomes if outcome.kind is OutcomeKind.DONE]
    assert len(killed) == 1
    assert world.oom_kills == 0
    assert len(world.models) == 2


def test_soft_cap_of_one_keeps_only_the_newest() -> None:
    world = World(capacity=16 * GIB).with_policy(cap=CapPolicy(soft_max=1))
    for name in ("a", "b", "c"):
        world.load(name, 300 * MIB, loaded=False)
        world.play(10)
        assert [m.name for m in world.models] == [name]


def test_soft_cap_of_one_keeps_the_omit_model_and_the_others_make_room() -> None:
    rules = {"a": ModelRule(Preference.OMIT)}
    world = World(capacity=16 * GIB).with_policy(cap=CapPolicy(soft_max=1), models=rules)
    world.load("a", 300 * MIB, loaded=False)
    world.play(10)
    for name in ("b", "c"):
        world.load(name, 300 * MIB, loaded=False)
        world.play(10)
        assert [m.name for m in world.models] == ["a"]


def test_a_silent_api_is_said_and_critical_kills_all_the_same() -> None:
    world = World(other=500 * MIB)
    world.load("big", 1536 * MIB)
    world.play(5)
    world.api_silent_since = world.now
    world.play(40)
    (condition,) = world.state.conditions
    assert "last answer" in condition.reason
    world.hog_rate, world.hog_target = 500 * MIB, 2200 * MIB
    world.play(20)
    assert not world.model("big")
    assert rungs(world) == [Rung.KILL_RUNNER]
    assert world.oom_kills == 0


def test_an_unload_that_is_not_honoured_ends_in_a_kill_of_the_idle_one() -> None:
    world = World(other=500 * MIB)
    world.load("stuck", 1536 * MIB).honours_unload = False
    world.load("tiny", 200 * MIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 150 * MIB, 2200 * MIB
    world.play(30)
    assert not world.model("stuck")
    assert world.model("tiny")
    assert world.oom_kills == 0


def test_paused_does_nothing_and_says_what_it_would_have_done() -> None:
    world = World(other=500 * MIB)
    world.load("big", 1536 * MIB)
    world.requests = (Request(7, "pause", seconds=600.0),)
    decision = world.tick()
    assert [(r.request_id, r.ok) for r in decision.replies] == [(7, True)]
    world.hog_rate, world.hog_target = 150 * MIB, 1800 * MIB
    world.play(30)
    assert world.model("big")
    told = [d for d in world.decisions if d.would]
    assert told
    assert told[0].reason.startswith("would have: ")


def test_a_pause_ends_by_itself() -> None:
    world = World()
    world.requests = (Request(1, "pause", seconds=5.0),)
    world.tick()
    world.play(6)
    assert world.state.durable.pause_until_at is None


def test_a_guarded_omit_model_is_not_even_touched_at_critical() -> None:
    rules = {"big": ModelRule(Preference.OMIT, Protect.ALWAYS)}
    world = World(other=500 * MIB).with_policy(models=rules)
    world.load("big", 1536 * MIB)
    world.play(5)
    world.hog_rate, world.hog_target = 150 * MIB, 2000 * MIB
    world.play(30)
    assert world.model("big")


def test_unload_by_hand_works_by_alias_and_is_an_ordinary_action() -> None:
    world = World()
    world.load("a:latest", 300 * MIB, aliases=("b:latest",))
    world.play(5)
    world.requests = (Request(3, "unload", "B"),)
    decision = world.tick()
    (action,) = decision.actions
    assert (action.request_id, action.names) == (3, ("a:latest", "b:latest"))
    world.play(2)
    assert not world.models


def test_unload_by_hand_of_an_unknown_model_is_refused_with_its_name() -> None:
    world = World()
    world.requests = (Request(3, "unload", "nope"),)
    (reply,) = world.tick().replies
    assert not reply.ok
    assert "nope" in reply.text


def test_an_empty_policy_leaves_a_15_gb_host_alone_while_it_is_calm() -> None:
    world = World(capacity=15 * GIB, other=5 * GIB)
    world.load("a", 3 * GIB)
    world.load("b", 2 * GIB, busy=True)
    world.play(120)
    assert not rungs(world)
    assert world.state.level is Level.OK


def test_observing_decides_but_never_acts() -> None:
    world = World(other=500 * MIB, policy=Policy(ollama=OllamaPolicy(mode=Mode.OBSERVE)))
    world.load("big", 1536 * MIB)
    world.play(5)
    world.hog_rate, world.hog_target = 150 * MIB, 1800 * MIB
    world.play(30)
    assert world.model("big")
    assert any(d.would for d in world.decisions)


def test_the_soft_cap_falls_with_relief_and_rises_after_quiet() -> None:
    world = World(other=500 * MIB)
    world.load("a", 700 * MIB)
    world.load("b", 700 * MIB)
    world.load("c", 700 * MIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 100 * MIB, 900 * MIB
    world.play(30)
    fallen = world.state.soft_cap
    assert fallen is not None
    assert fallen < 3
    world.hog_taken = world.hog_target = 0
    world.play(400)
    assert world.state.soft_cap is None


def test_a_drain_is_tried_at_hard_before_anybody_dies() -> None:
    world = World(other=2 * GIB)
    world.load("a", 900 * MIB, busy=True)
    world.load("b", 800 * MIB, busy=True)
    world.play(60)
    assert rungs(world)[0] is Rung.DRAIN_BUSY
    assert {m.name for m in world.models} == {"a", "b"}


def test_a_new_runner_counts_as_busy_until_proven_idle() -> None:
    world = World()
    world.load("a", 300 * MIB)
    world.tick()
    world.pass_time(1.0)
    world.tick()
    from ollama_guard.core.runners import census  # noqa: PLC0415 - beside its only use

    (runner,) = census(world.policy, world.state, world.snapshot())
    assert runner.activity is not Activity.IDLE


def test_a_load_that_fits_is_no_reason_to_unload_anybody() -> None:
    """Memory falls fast while it loads, but its end is foreseen, and it is above soft."""
    world = World(other=500 * MIB)
    world.load("old", 600 * MIB)
    world.play(5)
    world.load("new", 1900 * MIB, loaded=False)
    world.play(10)
    assert rungs(world) == []
    assert {m.name for m in world.models} == {"old", "new"}


def test_a_hog_beside_a_fitting_load_is_seen_all_the_same() -> None:
    world = World(other=500 * MIB)
    world.load("old", 600 * MIB)
    world.play(5)
    world.load("new", 1500 * MIB, loaded=False)
    world.hog_rate, world.hog_target = 300 * MIB, 1200 * MIB
    world.play(15)
    assert world.oom_kills == 0
    assert world.hog_taken == world.hog_target
    assert not world.model("old")
