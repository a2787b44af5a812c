"""Stories made up by an adversary: killed wrongly, killed too late, loops, spam, a hold too long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.model import (
    CONTAINER,
    HOST,
    ActionKind,
    Condition,
    Level,
    Mode,
    Outcome,
    OutcomeKind,
    Preference,
    Rung,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, ModelRule, OllamaPolicy, Policy, Protect
from ollama_guard.core.state import Durable, State
from ollama_guard.testing.scenario import World, blob_of


def acted(world: World) -> list[tuple[Rung, tuple[str, ...]]]:
    """Every action begun, as (rung, names), in order."""
    return [(d.rung, action.names) for d in world.decisions for action in d.actions if not d.would]


def restart(world: World) -> None:
    """The guard dies and starts again: only the durable part of its state is left."""
    world.state = State(durable=world.state.durable)


# ---- loads


def test_a_restarted_guard_never_aborts_a_loaded_model_whose_cache_is_not_touched_yet() -> None:
    """Its blob says 3 GiB, 2 GiB are resident, the API is silent, memory is short: that is no load."""
    world = World(other=1 * GIB)
    world.load("lazy", 2 * GIB, busy=True).foreseen = 3 * GIB
    world.api_silent_since = 0.0
    world.play(10)
    restart(world)
    world.play(10)
    assert world.model("lazy")
    assert Rung.ABORT_LOAD not in [rung for rung, _ in acted(world)]


def test_a_restarted_guard_finishes_judging_a_load_that_is_seen_to_grow() -> None:
    world = World(other=500 * MIB)
    huge = world.load("huge", 8 * GIB, loaded=False)
    huge.rate = 100 * MIB
    world.now += 8.0
    huge.taken = 800 * MIB
    world.play(5, until=lambda w: not w.model("huge"))
    assert acted(world) == [(Rung.ABORT_LOAD, ("huge",))]


def test_a_model_that_has_just_loaded_is_not_aborted_when_a_neighbour_takes_the_room() -> None:
    """The load is over though no answer of the API says so yet; what follows is ordinary pressure."""
    world = World(other=500 * MIB)
    world.load("new", 1 * GIB, loaded=False).foreseen = 1500 * MIB
    world.api_silent_since = world.now
    world.play(3)
    world.hog_rate, world.hog_target = 1000 * MIB, 1700 * MIB
    world.play(3)
    assert world.model("new")


def test_a_load_that_breaks_one_domain_is_aborted_before_another_domain_makes_room() -> None:
    """The container can never hold it, so an idle model outside must not go for it."""
    world = World(capacity=8 * GIB, other=3 * GIB, limit=2 * GIB)
    world.load("outside", 3 * GIB).inside = False
    world.play(5)
    world.load("huge", 3 * GIB, loaded=False)
    world.play(5, until=lambda w: not w.model("huge"))
    assert acted(world) == [(Rung.ABORT_LOAD, ("huge",))]


def test_a_load_of_unknown_size_is_aborted_at_critical_before_a_busy_one_dies() -> None:
    world = World(other=1 * GIB)
    world.load("busy", 1 * GIB, busy=True)
    world.play(5)
    loading = world.load("unknown", 4 * GIB, loaded=False)
    loading.known = False
    world.play(10)
    assert [rung for rung, _ in acted(world)] == [Rung.ABORT_LOAD]
    assert world.model("busy")
    assert world.oom_kills == 0


def test_an_abort_does_not_lower_the_cap_for_models_that_fit() -> None:
    """A client that asks for the impossible all day must not cost the others their places."""
    world = World(capacity=8 * GIB, other=1 * GIB)
    world.load("a", 1 * GIB)
    world.play(5)
    for _ in range(5):
        world.load("huge", 30 * GIB, loaded=False)
        world.play(3, until=lambda w: not w.model("huge"))
    assert world.state.soft_cap is None


# ---- critical


def test_a_runner_that_hangs_after_its_kill_does_not_keep_another_victim_from_dying() -> None:
    """SIGKILL does nothing to a process in D state: the next has its turn, and no shot a tick is fired."""
    world = World(other=500 * MIB)
    world.load("stuck", 1600 * MIB, busy=True).dies = False
    world.load("other", 1200 * MIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 200 * MIB, 650 * MIB
    world.play(60)
    killed = [names for rung, names in acted(world) if rung is Rung.KILL_RUNNER]
    assert ("other",) in killed
    assert killed.count(("stuck",)) <= 4
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
    kills = [rung for rung, _ in acted(world) if rung is Rung.KILL_RUNNER]
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
    assert not acted(world)
    assert any("budget" in d.reason for d in world.decisions)


def test_the_same_at_the_host_kills_all_the_same() -> None:
    world = World(other=1800 * MIB)
    world.load("busy", 2200 * MIB, busy=True)
    world.state = State(durable=Durable(fruitless_kills=tuple(world.now - n for n in range(6))[::-1]))
    world.play(5)
    assert acted(world) == [(Rung.KILL_RUNNER, ("busy",))]


def test_a_drain_in_flight_does_not_keep_critical_waiting() -> None:
    world = World(other=2 * GIB)
    world.load("a", 900 * MIB, busy=True)
    world.load("b", 800 * MIB, busy=True)
    world.play(20)
    assert acted(world)[0][0] is Rung.DRAIN_BUSY
    world.hog_rate, world.hog_target = 150 * MIB, 400 * MIB
    world.play(10)
    kills = [names for rung, names in acted(world) if rung is Rung.KILL_RUNNER]
    assert len(kills) == 1
    assert kills[0] == acted(world)[0][1], "the one that was to end anyway is the least harm"
    assert world.oom_kills == 0


def test_an_unload_that_would_come_after_the_end_is_not_waited_for() -> None:
    """The unload was begun in calm times; then memory falls faster than it can be done."""
    world = World(other=500 * MIB)
    world.load("slow", 2600 * MIB).honours_unload = False
    world.play(5)
    world.hog_rate, world.hog_target = 100 * MIB, 200 * MIB
    world.play(30, until=lambda w: bool(w.state.in_flight))
    assert acted(world)[0][0] is Rung.UNLOAD_IDLE
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
    assert [names for rung, names in acted(world) if rung is Rung.KILL_RUNNER] == [("large",)]


def test_a_forecast_of_critical_still_unloads_what_soft_would() -> None:
    """The greater danger must not mean that less is missing: on 64 GiB critical lies far below."""
    world = World(capacity=64 * GIB, other=20 * GIB)
    world.load("idle", 10 * GIB)
    world.load("busy", 26 * GIB, busy=True)
    world.play(5)
    world.hog_rate, world.hog_target = 2 * GIB, 7 * GIB
    world.play(10)
    assert acted(world)[0] == (Rung.UNLOAD_IDLE, ("idle",))
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


# ---- loops and spam


def test_an_unload_whose_outcome_never_comes_is_not_tried_for_ever() -> None:
    world = World(other=700 * MIB)
    world.load("deaf", 2700 * MIB).honours_unload = False
    for _ in range(int(120 / 0.1)):
        world.tick()
        world.pass_time(0.1)
    unloads = [names for rung, names in acted(world) if rung is Rung.UNLOAD_IDLE]
    assert 1 <= len(unloads) <= 2


def test_an_unload_that_is_skipped_is_not_tried_each_tick() -> None:
    world = World(other=700 * MIB)
    world.load("away", 2700 * MIB).honours_unload = False
    for _ in range(300):
        for action in world.tick().actions:
            skipped = Outcome(action.id, OutcomeKind.SKIPPED, world.now, detail="not touched")
            world.state = absorb(world.policy, world.state, skipped)
        world.pass_time(0.1)
    assert len(acted(world)) <= 30 / 2 + 1


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


def test_a_ghost_is_cleared_once_and_never_while_its_model_loads_again() -> None:
    world = World()
    ghost = world.load("ghost", 300 * MIB)
    world.play(5)
    listed = world.snapshot().api.loaded
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
    begun = len(acted(world))
    world.load("mid", 1 * GIB, loaded=False).dies = False
    for _ in range(100):
        for action in world.tick().actions:
            failed = Outcome(action.id, OutcomeKind.FAILED, world.now, detail="EPERM")
            world.state = absorb(world.policy, world.state, failed)
        world.now += 0.05
    assert len(acted(world)) - begun <= 2


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


# ---- time


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
    assert not acted(world)
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
    assert not acted(world)
