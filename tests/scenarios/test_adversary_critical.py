"""Critical: killed wrongly, killed too late, held though it had to act."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core import narrate
from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.events import Event
from ollama_guard.core.model import (
    CONTAINER,
    Action,
    ActionKind,
    Decision,
    Level,
    Outcome,
    OutcomeKind,
    Preference,
    Rung,
    Snapshot,
)
from ollama_guard.core.policy import GIB, MIB, ModelRule, Policy, Protect
from ollama_guard.core.state import Durable, State
from ollama_guard.testing.scenario import World


def test_a_runner_that_hangs_after_its_kill_does_not_keep_another_victim_from_dying() -> None:
    """SIGKILL does nothing to a process in D state: the next has its turn, and no shot a tick is fired."""
    world = World(other=500 * MIB)
    world.load("stuck", 1600 * MIB, busy=True).dies = False
    world.load("other", 1200 * MIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 200 * MIB, 650 * MIB
    world.play(60)
    killed = [names for rung, names in world.acted() if rung is Rung.KILL_RUNNER]
    assert ("other",) in killed
    assert killed.count(("stuck",)) <= 4
    assert world.oom_kills == 0


def test_a_runner_that_outlives_sigkill_is_an_alert_once_however_often_it_is_shot_at() -> None:
    """It keeps its memory for good, so a person has to know; each further shot is no news."""
    world = World(other=1800 * MIB)
    world.load("stuck", 2200 * MIB, busy=True).dies = False
    told: list[Event] = []
    for _ in range(3000):
        before = world.state
        world.settle()
        snapshot = world.snapshot()
        decision = world.tick()
        told += narrate.events(before, world.state, decision, snapshot)
        world.pass_time(0.1)
    failed = [event for event in told if event.name == "action.failed"]
    assert len(failed) > 2
    (alert,) = (event for event in told if event.name == "runner.stuck")
    assert alert.alerts
    assert "stuck" in alert.message
    assert alert.fields["pid"] == world.models[0].pid


def test_another_process_with_the_pid_of_one_that_outlived_its_kill_is_told_anew() -> None:
    kill = Action(7, ActionKind.KILL, Rung.KILL_RUNNER, 10.0, pid=101, start_ticks=5)
    stays = Outcome(7, OutcomeKind.FAILED, 10.0, detail="still there 10.00 s after SIGKILL")
    for change, count in (({}, 1), ({"start_ticks": 6}, 2), ({"kind": ActionKind.UNLOAD}, 1)):
        state = absorb(Policy(), State(in_flight=(kill,)), stays)
        again = replace(state, in_flight=(replace(kill, **change),))  # type: ignore[arg-type]  # names as above
        assert len(absorb(Policy(), again, stays).stuck) == count
    refused = replace(stays, detail="the signal was refused: EPERM")
    assert absorb(Policy(), State(in_flight=(kill,)), refused).stuck == ()


@pytest.mark.parametrize("limit", [None, 3 * GIB], ids=["host", "container"])
def test_a_killed_runner_with_threads_is_waited_for_though_it_is_listed_no_more(limit: int | None) -> None:
    """Its first thread is gone at once, its memory comes back later: nobody else dies for that."""
    world = World(capacity=4 * GIB if limit is None else 15 * GIB, limit=limit, threaded=True)
    world.other = 1 * GIB if limit is None else 0
    world.load("one", 1100 * MIB, busy=True)
    world.load("two", 1000 * MIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 300 * MIB, 1200 * MIB
    world.play(10)
    assert len(world.acted()) == 1, [decision.reason for decision in world.decisions if decision.actions]
    assert world.acted()[0][0] is Rung.KILL_RUNNER
    assert world.oom_kills == 0


def test_a_kill_that_is_refused_by_the_kernel_is_not_tried_each_tick() -> None:
    """No right to signal it: the pauses double, also at host critical, where no budget holds."""
    world = World(other=1800 * MIB)
    world.load("foreign", 2200 * MIB, busy=True).dies = False
    for _ in range(600):
        decision = world.tick()
        for action in decision.actions:
            refused = Outcome(action.id, OutcomeKind.FAILED, world.now, detail="EPERM")
            world.state = absorb(world.policy, world.state, refused)
        world.pass_time(0.05)
    kills = [rung for rung, _ in world.acted() if rung is Rung.KILL_RUNNER]
    assert 3 <= len(kills) <= 5


def test_looks_that_disagree_do_not_delay_the_next_kill() -> None:
    world = World(other=1800 * MIB)
    world.load("busy", 2200 * MIB, busy=True)
    world.play(0.2, until=lambda w: bool(w.state.in_flight))
    (action,) = world.state.in_flight
    world.model("busy").gone_at = None  # type: ignore[union-attr]  # the kill was not carried out
    skipped = Outcome(action.id, OutcomeKind.SKIPPED, world.now, detail="the looks did not agree")
    world.state = absorb(world.policy, world.state, skipped)
    world.pass_time(0.02)
    assert [a.kind for a in world.tick().actions] == [ActionKind.KILL]


def test_a_container_at_critical_with_its_budget_spent_holds_and_says_so() -> None:
    world = World(capacity=15 * GIB, other=2 * GIB, limit=2 * GIB)
    world.load("busy", 1990 * MIB, busy=True)
    world.state = State(durable=Durable(fruitless_kills=tuple(world.now - 60 * n for n in range(6))[::-1]))
    world.play(20)
    assert world.state.domains[CONTAINER].urgent is Level.CRITICAL
    assert not world.acted()
    held = [decision for decision in world.decisions if "budget" in decision.reason]
    assert held
    assert all(decision.gave_up for decision in held)


def test_a_guard_that_gives_up_alerts_once_however_long_it_holds() -> None:
    before, snapshot = State(), Snapshot(1000.0, 0.0)
    alerts = []
    for second in range(200):
        held = Decision(1000.0 + second, 0.0, Level.CRITICAL, Rung.HOLD, "hold", gave_up=True)
        alerts += [event for event in narrate.events(before, before, held, snapshot) if event.alerts]
        told = held.at if narrate.tells_hold(before, held) else before.hold_told_at
        before = replace(before, last_decision=held, hold_told_at=told)
    assert [event.name for event in alerts] == ["decision.held"]


def test_the_same_at_the_host_kills_all_the_same() -> None:
    world = World(other=1800 * MIB)
    world.load("busy", 2200 * MIB, busy=True)
    world.state = State(durable=Durable(fruitless_kills=tuple(world.now - n for n in range(6))[::-1]))
    world.play(5)
    assert world.acted() == [(Rung.KILL_RUNNER, ("busy",))]


def test_a_drain_in_flight_does_not_keep_critical_waiting() -> None:
    world = World(other=2 * GIB)
    world.load("a", 900 * MIB, busy=True)
    world.load("b", 800 * MIB, busy=True)
    world.play(20)
    assert world.acted()[0][0] is Rung.DRAIN_BUSY
    world.hog_rate, world.hog_target = 150 * MIB, 400 * MIB
    world.play(10)
    kills = [names for rung, names in world.acted() if rung is Rung.KILL_RUNNER]
    assert len(kills) == 1
    assert kills[0] == world.acted()[0][1], "the one that was to end anyway is the least harm"
    assert world.oom_kills == 0


def test_an_unload_that_would_come_after_the_end_is_not_waited_for() -> None:
    """The unload was begun in calm times; then memory falls faster than it can be done."""
    world = World(other=500 * MIB)
    world.load("slow", 2600 * MIB).honours_unload = False
    world.play(5)
    world.hog_rate, world.hog_target = 100 * MIB, 200 * MIB
    world.play(30, until=lambda w: bool(w.state.in_flight))
    assert world.acted()[0][0] is Rung.UNLOAD_IDLE
    world.hog_rate, world.hog_target = 1500 * MIB, 1500 * MIB
    world.play(3)
    assert world.model("slow") is None
    assert world.oom_kills == 0


def test_a_small_idle_model_does_not_die_where_a_busy_one_has_to_die_anyway() -> None:
    """Its death would cost time and bring too little."""
    world = World(other=1 * GIB)
    world.load("small", 60 * MIB)
    world.load("large", 2 * GIB, busy=True)
    world.play(5)
    world.api_silent_since = world.now - 100
    world.hog_rate, world.hog_target = 1500 * MIB, 880 * MIB
    world.play(10)
    assert [names for rung, names in world.acted() if rung is Rung.KILL_RUNNER] == [("large",)]


def test_a_forecast_of_critical_still_unloads_what_soft_would() -> None:
    """The greater danger must not mean that less is missing: on 64 GiB critical lies far below."""
    world = World(capacity=64 * GIB, other=20 * GIB)
    world.load("idle", 10 * GIB)
    world.load("busy", 26 * GIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 2 * GIB, 7 * GIB
    world.play(10)
    assert world.acted()[0] == (Rung.UNLOAD_IDLE, ("idle",))
    assert world.model("busy")


def test_swapped_out_models_are_not_taken_for_relief() -> None:
    """Unloading what lies in swap brings no memory back, so the resident idle one is the victim."""
    world = World(other=1 * GIB)
    world.load("swapped", 40 * MIB).swapped = 3 * GIB
    world.play(1)
    world.load("resident", 1500 * MIB)
    world.play(4)
    world.hog_rate, world.hog_target = 150 * MIB, 900 * MIB
    world.play(30)
    assert not world.model("resident")
    assert world.model("swapped")
    assert world.oom_kills == 0


def test_two_domains_each_get_their_own_victim() -> None:
    world = World(capacity=8 * GIB, other=1 * GIB, limit=3 * GIB)
    world.load("inside", 1 * GIB)
    world.load("outside", 4 * GIB).inside = False
    world.play(5)
    world.hog_rate, world.hog_target = 300 * MIB, 1900 * MIB
    world.play(30)
    assert not world.model("inside")
    assert world.oom_kills == 0


def test_a_protected_model_whose_name_is_not_known_yet_is_spared() -> None:
    """Without a catalogue (hands hang since the start) any runner could be the protected one."""
    rules = {"vip": ModelRule(Preference.OMIT, Protect.ALWAYS)}
    world = World(other=1800 * MIB, policy=Policy(models=rules))
    world.load("vip", 2200 * MIB)
    world.catalogue.clear()
    world.api_silent_since = 0.0
    world.hands_alive = False
    for _ in range(200):
        snapshot = world.snapshot()
        world.state, decision = decide(
            world.policy, world.state, replace(snapshot, api=replace(snapshot.api, loaded=()))
        )
        assert not decision.actions
        world.pass_time(0.05)
    assert "may never be touched" in decision.reason
