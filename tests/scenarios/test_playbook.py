"""Stories of freezes and of what only looks like one, told to the whole brain with a stepped clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ollama_guard.core.model import Action, ActionKind, Condition, Level, Mode, Preference, Request, Rung
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import (
    GIB,
    MIB,
    Authority,
    ModelRule,
    OllamaPolicy,
    PlaybookPolicy,
    Policy,
    Protect,
    QuarantinePolicy,
)
from ollama_guard.core.recovery import Ending
from ollama_guard.core.recoverystatus import caps, playbook
from ollama_guard.core.runners import census
from ollama_guard.core.runtime import RuntimeKind, RuntimeState
from ollama_guard.core.scene import Scene
from ollama_guard.testing.scenario import World
from ollama_guard.testing.served import Served

OWNERS_WORD = Policy(ollama=OllamaPolicy(authority=Authority.SERVER))


def world_of(policy: Policy = OWNERS_WORD) -> World:
    """Four GiB, an idle model that fits, one that never can, a server under systemd; five calm seconds."""
    world = World(policy=policy, served=Served())
    world.load("huge", 8 * GIB)
    world.models = []
    world.load("tiny", 300 * MIB)
    world.play(5)
    return world


def freeze(world: World) -> Served:
    """The server is stopped by a signal (or hangs in the kernel) and answers nothing from now on."""
    assert world.served is not None
    world.served.ill, world.served.process_state = True, "T"
    return world.served


def steps(world: World) -> list[ActionKind]:
    return [a.kind for d in world.decisions if not d.would for a in d.actions if a.rung is Rung.PLAYBOOK]


def ended(world: World) -> list[Ending]:
    return [run.ending for run in world.state.durable.runs if run.ending is not Ending.RUNNING]


def conditions(world: World) -> set[Condition]:
    return {held.condition for held in world.state.conditions}


def ticked(world: World, seconds: float) -> list[str]:
    """Play and return the names of all events."""
    end, told = world.now + seconds, []
    while world.now < end:
        before = world.state
        world.settle()
        snapshot = world.snapshot()
        decision = world.tick()
        told += [event.name for event in events(before, world.state, decision, snapshot)]
        world.pass_time(world.state.planned_delay_seconds)
        world.react()
    return told


def test_a_server_that_stands_still_is_recovered() -> None:
    """Silent and in state T: constrained, stopped, the model that can't fit hidden, started, verified."""
    world = world_of()
    served = freeze(world)
    told = ticked(world, 180)
    assert steps(world) == [
        ActionKind.CONSTRAIN,
        ActionKind.STOP,
        ActionKind.QUARANTINE,
        ActionKind.START,
        ActionKind.VERIFY,
    ]
    assert served.running
    assert served.hidden == ("huge",)
    assert served.environment["OLLAMA_NUM_PARALLEL"] == "1"
    assert next(name for name in told if name.startswith("playbook.")) == "playbook.started"
    assert told.count("playbook.finished") == 1
    assert told.count("model.quarantined") == 1
    (run,) = world.state.durable.runs
    assert run.ending is Ending.DONE


def test_a_runner_in_the_kernel_with_a_silent_api_is_a_freeze() -> None:
    """State D without progress, as under a file system that never answers."""
    world = world_of()
    assert world.served is not None
    world.served.ill = True
    model = world.model("tiny")
    assert model is not None
    model.process_state = "D"
    world.play(120)
    assert ActionKind.STOP in steps(world)


def test_the_freeze_is_a_condition_with_its_reason_until_it_has_been_over_for_a_transition() -> None:
    world = world_of()
    freeze(world)
    world.play(120, until=lambda w: Condition.FROZEN in conditions(w))
    (held,) = [h for h in world.state.conditions if h.condition is Condition.FROZEN]
    assert "silent" in held.reason
    assert "stood still" in held.reason
    world.play(30)
    assert Condition.FROZEN in conditions(world)
    world.play(90)
    assert Condition.FROZEN not in conditions(world)


def test_what_the_playbook_set_is_lifted_after_quiet_and_what_it_hid_stays_hidden() -> None:
    world = world_of()
    served = freeze(world)
    world.play(700)
    assert served.written == {}
    assert served.limits is None
    assert served.hidden == ("huge",)
    assert world.state.durable.constrained is None
    assert served.running


def test_who_asks_for_what_the_guards_own_limit_forbids_does_not_keep_it_in_force() -> None:
    """A model that was fine before the freeze is asked for again and again, and is aborted each time."""
    world = World(policy=OWNERS_WORD, capacity=16 * GIB, served=Served())
    world.load("main", 5 * GIB)
    world.play(5)
    served = freeze(world)
    world.play(200, until=lambda w: bool(ended(w)))
    assert served.limits is not None
    world.limit = 3 * GIB
    for _ in range(30):
        world.load("main", 5 * GIB, loaded=False)
        world.play(5, until=lambda w: not w.model("main"))
        if served.limits is None:
            break
        world.play(25)
    assert served.limits is None
    assert served.written == {}


def test_a_machine_that_stays_below_soft_for_others_sake_gets_its_constraints_lifted_all_the_same() -> None:
    world = world_of()
    served = freeze(world)
    world.play(200, until=lambda w: bool(ended(w)))
    world.other = world.capacity - 600 * MIB - sum(model.taken for model in world.models)
    world.play(700)
    assert world.state.level is Level.SOFT
    assert world.state.durable.constrained is None
    assert served.written == {}


def test_what_fits_again_comes_back_where_the_owner_wants_that() -> None:
    policy = replace(OWNERS_WORD, quarantine=QuarantinePolicy(restore=True, restore_after_seconds=600))
    world = world_of(policy)
    served = freeze(world)
    world.play(200)
    assert served.hidden == ("huge",)
    world.play(1200)
    assert served.hidden == ("huge",)
    world.capacity = 16 * GIB
    world.play(1000)
    assert served.hidden == ()


def paused(world: World) -> None:
    served = freeze(world)
    served.reading = replace(served.reading, state=RuntimeState.PAUSED)


def cgroup_frozen(world: World) -> None:
    freeze(world).frozen = True


def traced(world: World) -> None:
    """As the kernel tells of a process whose every thread a debugger holds."""
    served = freeze(world)
    served.traced, served.process_state = True, "t"


def upgraded(world: World) -> None:
    served = freeze(world)
    served.reading = replace(served.reading, state=RuntimeState.CHANGING)


def young(world: World) -> None:
    served = freeze(world)
    served.reading = replace(served.reading, started_at=world.now + 10)


def loading_slowly(world: World) -> None:
    assert world.served is not None
    world.served.ill = True
    slow = world.load("slow", 1 * GIB, loaded=False)
    slow.rate = 1 * MIB


def at_work(world: World) -> None:
    """The API starves while a runner computes."""
    assert world.served is not None
    world.served.ill = True
    model = world.model("tiny")
    assert model is not None
    model.busy = True


def a_neighbours_thrash(world: World) -> None:
    """Ollama holds next to nothing, but suffers as all do."""
    freeze(world)
    world.models = []
    world.psi_full, world.refaults = 80.0, 0


def unhealthy(world: World) -> None:
    """Its health check is broken, and all it does is to fail."""
    assert world.served is not None
    world.served.reading = replace(world.served.reading, unhealthy=True)


@pytest.mark.parametrize(
    "trouble",
    [paused, cgroup_frozen, traced, upgraded, young, loading_slowly, at_work, a_neighbours_thrash, unhealthy],
)
def test_what_only_looks_like_a_freeze_costs_nothing(trouble: Callable[[World], None]) -> None:
    world = world_of()
    trouble(world)
    for _ in range(115):
        world.play(1)
        if world.refaults is not None:
            world.refaults += 20_000
    assert steps(world) == []
    assert Condition.FROZEN not in conditions(world)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (paused, "ollama.service is paused"),
        (cgroup_frozen, "ollama.service is paused"),
        (traced, "a debugger is attached"),
        (upgraded, "ollama.service is being started, stopped or upgraded"),
    ],
)
def test_why_a_silent_server_is_left_alone_is_said(trouble: Callable[[World], None], why: str) -> None:
    world = world_of()
    trouble(world)
    world.play(115)
    assert f"it looks frozen, but {why}" in " ".join(d.reason for d in world.decisions)


@pytest.mark.parametrize("trouble", [paused, traced, upgraded])
def test_the_same_silence_is_a_freeze_without_that_reason(trouble: Callable[[World], None]) -> None:
    """The tests above would fail if the diagnosis saw nothing at all."""
    world = world_of()
    trouble(world)
    assert world.served is not None
    world.served.reading = replace(world.served.reading, state=RuntimeState.RUNNING)
    world.served.traced, world.served.frozen, world.served.process_state = False, False, "T"
    world.play(115)
    assert ActionKind.STOP in steps(world)


@pytest.mark.parametrize("trouble", [paused, cgroup_frozen, traced, upgraded])
def test_a_server_that_was_let_go_a_moment_ago_has_time_to_answer(trouble: Callable[[World], None]) -> None:
    """All the time for which it was held it stood still and was silent, which tells nothing of it now."""
    world = world_of()
    trouble(world)
    world.play(115)
    served = world.served
    assert served is not None
    served.reading = replace(served.reading, state=RuntimeState.RUNNING)
    served.traced, served.frozen, served.process_state = False, False, "S"
    world.play(15)
    served.ill = False
    world.play(60)
    assert steps(world) == []


@pytest.mark.parametrize("never_answered", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        "refused: GET /api/ps: can't connect",
        "http_error: answered with 401",
        "redirect: (301)",
        "bad_answer: -",
    ],
)
def test_an_api_that_only_the_guard_cannot_reach_is_unresponsive_but_not_frozen(
    error: str, *, never_answered: bool
) -> None:
    """A wrong url, a changed port, a proxy that asks for a password: Ollama serves everybody else."""
    world = world_of()
    assert world.served is not None
    world.served.ill = True
    world.api_error, world.api_never_answered = error, never_answered
    world.play(300)
    assert steps(world) == []
    assert Condition.OLLAMA_UNRESPONSIVE in conditions(world)
    assert Condition.FROZEN not in conditions(world)


def test_an_api_that_never_answered_and_lets_every_request_time_out_is_a_freeze() -> None:
    """The guard was started beside a server that stood still already."""
    world = World(policy=OWNERS_WORD, served=Served(), api_never_answered=True)
    freeze(world)
    world.play(120)
    assert ActionKind.STOP in steps(world)


def test_a_server_that_is_silent_but_only_waits_is_given_twice_the_time() -> None:
    world = world_of()
    assert world.served is not None
    world.served.ill = True
    world.play(80)
    assert steps(world) == []
    world.play(60)
    assert ActionKind.STOP in steps(world)


def thrashing(world: World, seconds: int, *, faults: int = 0) -> None:
    """The whole machine's figures, with so many major faults a second of the model "mapped"."""
    world.psi_full, world.refaults = 85.0, 0
    for _ in range(seconds):
        world.play(1)
        world.refaults += 30_000
        model = world.model("mapped")
        if model is not None:
            model.major_faults += faults


@pytest.mark.parametrize("busy", [False, True])
def test_thrash_by_ollama_itself_is_a_freeze_though_its_api_answers(*, busy: bool) -> None:
    """Memory looks fine, since the model is mapped: refaults and full pressure say that nothing moves."""
    world = world_of()
    world.load("mapped", 2 * GIB, busy=busy)
    world.play(5)
    thrashing(world, 45, faults=300)
    assert ActionKind.CONSTRAIN in steps(world)


def test_a_runner_that_waits_in_the_kernel_is_in_the_thrash() -> None:
    """Not at every look: an answer goes on in bits."""
    world = world_of()
    model = world.load("mapped", 2 * GIB, busy=True)
    world.play(5)
    world.psi_full, world.refaults = 85.0, 0
    for second in range(45):
        model.process_state = "D" if second % 3 == 0 else "R"
        world.play(1)
        world.refaults += 30_000
    assert ActionKind.CONSTRAIN in steps(world)


@pytest.mark.parametrize("busy", [False, True])
def test_a_neighbours_thrash_in_its_own_limit_leaves_a_large_healthy_ollama_alone(*, busy: bool) -> None:
    """Its figures are the whole machine's; here no runner waits for anything, and the API answers."""
    world = world_of()
    world.load("mapped", 2 * GIB, busy=busy)
    world.play(5)
    thrashing(world, 200, faults=2)
    assert steps(world) == []
    assert Condition.FROZEN not in conditions(world)
    assert "somebody else's" in world.state.symptoms.spared
    assert sum("somebody else's" in d.reason for d in world.decisions) == 1


def test_a_neighbours_thrash_spares_no_server_that_stands_still() -> None:
    world = world_of()
    world.load("mapped", 2 * GIB)
    world.play(5)
    freeze(world)
    thrashing(world, 115)
    assert ActionKind.STOP in steps(world)


@pytest.mark.parametrize("own", [False, True])
def test_thrash_in_ollamas_own_cgroup_is_its_own(*, own: bool) -> None:
    world = world_of()
    world.limit = 3 * GIB
    world.load("mapped", 1 * GIB)
    world.play(5)
    world.psi_full = world.psi_full_inside = 85.0
    world.refaults = world.refaults_inside = 0
    for _ in range(45):
        world.play(1)
        world.refaults += 30_000
        world.refaults_inside += 30_000 if own else 100
    assert (ActionKind.CONSTRAIN in steps(world)) is own


def test_full_pressure_without_anything_read_back_is_no_thrash() -> None:
    world = world_of()
    world.load("mapped", 2 * GIB, busy=True)
    world.play(5)
    world.psi_full, world.refaults = 85.0, 0
    world.play(100)
    assert steps(world) == []


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.OBSERVE])
def test_without_the_owners_word_it_is_told_once_what_would_be_done(mode: Mode) -> None:
    world = world_of(Policy(ollama=OllamaPolicy(mode=mode)))
    served = freeze(world)
    told = ticked(world, 400)
    assert steps(world) == []
    assert not served.done
    would = [d for d in world.decisions if d.would and d.rung is Rung.PLAYBOOK]
    assert len(would) == 1
    assert 'authority = "server"' in would[0].reason
    assert told.count("playbook.started") == 0


def test_the_label_of_a_container_is_the_owners_word() -> None:
    world = world_of(Policy())
    served = freeze(world)
    served.reading = replace(served.reading, kind=RuntimeKind.DOCKER, name="ollama", authority=True)
    world.play(180)
    assert served.running
    assert ActionKind.START in steps(world)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"auto_remove": True}, "--rm"),
        ({"shared_by": ("sidecar",)}, "sidecar"),
        ({"kind": RuntimeKind.SYSTEMD, "shared_by": ("open-webui.service",)}, "would stop with"),
        ({"verbs": ("start",), "cannot": "polkit says no"}, "polkit says no"),
    ],
)
def test_a_server_that_may_never_be_stopped_is_not_and_that_is_said(
    change: dict[str, object], why: str
) -> None:
    world = world_of()
    served = freeze(world)
    served.reading = replace(served.reading, **change)  # type: ignore[arg-type]  # names checked by dataclasses
    world.play(200)
    assert steps(world) == []
    assert any(d.rung is Rung.HOLD and why in d.reason for d in world.decisions)


def test_nothing_is_restarted_while_a_model_is_pulled() -> None:
    world = world_of()
    served = freeze(world)
    served.busy = "huge is being pulled"
    world.play(200)
    assert steps(world) == []
    served.busy = ""
    world.play(60)
    assert ActionKind.START in steps(world)


def test_a_pull_that_begins_after_the_first_step_ends_the_run_before_the_stop() -> None:
    world = world_of()
    served = freeze(world)
    world.play(200, until=lambda w: bool(steps(w)))
    served.busy = "huge is being pulled"
    world.play(30)
    assert steps(world) == [ActionKind.CONSTRAIN]
    assert served.running
    (run,) = world.state.durable.runs
    assert run.ending is Ending.FAILED


def test_a_server_that_goes_on_by_itself_is_not_stopped() -> None:
    world = world_of()
    served = freeze(world)
    world.play(200, until=lambda w: bool(steps(w)))
    served.ill, served.process_state = False, "S"
    world.play(60)
    assert steps(world) == [ActionKind.CONSTRAIN]
    (run,) = world.state.durable.runs
    assert run.ending is Ending.DONE


def test_runs_that_do_not_help_are_bounded_and_then_said() -> None:
    """The server freezes again as often as it is started."""
    world = world_of(replace(OWNERS_WORD, playbook=PlaybookPolicy(runs_per_hour=2)))
    freeze(world)
    for _ in range(3000):
        world.play(1)
        assert world.served is not None
        if world.served.running and world.now - world.served.started_at > 5:
            freeze(world)
    assert len(world.state.durable.runs) == 2
    assert world.served is not None
    assert world.served.running
    held = [d for d in world.decisions if d.rung is Rung.HOLD and "budget" in d.reason]
    assert held
    assert all(decision.gave_up for decision in held)


def test_a_refused_stop_is_asked_for_again_and_does_no_harm_to_the_budget() -> None:
    """As by a proxy that does not grant it yet."""
    world = world_of(replace(OWNERS_WORD, playbook=PlaybookPolicy(runs_per_hour=1)))
    served = freeze(world)
    served.faults = {ActionKind.STOP: ["refuse"] * 4}
    world.play(600, until=lambda _: served.started_at > 0)
    runs = world.state.durable.runs
    assert [run.unharmed for run in runs] == [True] * 4 + [False]
    begun = [run.started_at for run in runs]
    pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert pauses == pytest.approx([15, 30, 60, 120], abs=3)


def test_while_docker_is_away_nothing_begins_and_its_return_is_enough() -> None:
    world = world_of()
    served = freeze(world)
    served.away = True
    world.play(300)
    assert not steps(world)
    held = [d for d in world.decisions if d.rung is Rung.HOLD and "no Docker listens" in d.reason]
    assert held
    served.away = False
    world.play(60)
    assert served.running
    assert len(world.state.durable.runs) == 1
    assert world.state.durable.runs[0].ending is Ending.DONE


@pytest.mark.parametrize("fault", ["away", "cut"])
def test_docker_that_goes_away_during_the_stop_is_waited_for_and_the_run_goes_on(fault: str) -> None:
    """Whether it has stopped the container nobody knows until it is back."""
    world = world_of()
    served = freeze(world)
    served.faults = {ActionKind.STOP: [fault]}
    world.play(200, until=lambda w: ActionKind.STOP in steps(w))
    served.away = True
    world.play(300)
    assert steps(world) == [ActionKind.CONSTRAIN, ActionKind.STOP]
    served.away = False
    world.play(60)
    assert steps(world)[2:] == [
        ActionKind.STOP, ActionKind.QUARANTINE, ActionKind.START, ActionKind.VERIFY,
    ]  # fmt: skip
    (run,) = world.state.durable.runs
    assert (run.ending, run.unharmed) == (Ending.DONE, False)
    assert served.running


def test_docker_that_is_restarted_during_the_stop_and_has_started_ollama_needs_no_second_one() -> None:
    world = world_of()
    served = freeze(world)
    served.faults = {ActionKind.STOP: ["cut"]}
    world.play(200, until=lambda _: served.away)
    world.play(20)
    served.away = False
    served.running, served.ill, served.process_state = True, False, "S"
    served.pid, served.started_at = served.pid + 50, world.now
    world.play(120)
    assert steps(world) == [ActionKind.CONSTRAIN, ActionKind.STOP]
    (run,) = world.state.durable.runs
    assert run.ending is Ending.DONE


def test_docker_that_goes_away_during_the_start_is_not_asked_until_it_is_back() -> None:
    world = world_of()
    served = freeze(world)
    served.faults = {ActionKind.START: ["away"]}
    world.play(200, until=lambda w: ActionKind.START in steps(w))
    served.away = True
    world.play(1200)
    assert steps(world).count(ActionKind.START) == 1
    served.away = False
    world.play(10)
    assert served.running


def test_a_second_run_waits_longer_than_the_first() -> None:
    world = world_of()
    freeze(world)
    world.play(300, until=lambda w: bool(w.state.durable.runs) and w.state.durable.playbook is None)
    first = world.state.durable.runs[0].ended_at
    assert first is not None
    freeze(world)
    world.play(600, until=lambda w: len(w.state.durable.runs) == 2)
    assert world.state.durable.runs[1].started_at - first >= 120


def test_a_model_whose_runner_the_kernel_kills_is_condemned_then_hidden_without_a_playbook() -> None:
    """A client asks for it again and again; the API answers all the while, so nothing is frozen.

    It was alone in its container and the kernel killed it far from what its command line says: so it needs
    more than the container has, whatever it held.
    """
    world = world_of()
    world.limit, world.models = 2 * GIB, []
    world.play(5)
    told: list[str] = []
    for _ in range(6):
        if world.served is not None and "greedy" in world.served.hidden:
            break
        loading = world.load("greedy", 1900 * MIB, loaded=False)
        loading.foreseen = 100 * MIB
        world.catalogue["greedy"] = replace(world.catalogue["greedy"], size_bytes=100 * MIB)
        told += ticked(world, 0.3)
        if world.model("greedy"):
            world.models = [m for m in world.models if m.name != "greedy"]
            world.oom_kills += 1
        told += ticked(world, 8)
    assert world.served is not None
    assert "greedy" in world.served.hidden
    assert told.count("runner.lost") == 2
    assert told.count("blob.condemned") == 1
    assert "playbook.started" not in told


def test_a_runner_that_ends_by_itself_is_no_strike() -> None:
    world = world_of()
    for _ in range(4):
        world.load("other", 200 * MIB)
        world.play(4)
        world.models = [m for m in world.models if m.name != "other"]
        world.play(4)
    assert not world.state.durable.strikes
    assert not world.state.durable.condemned


def test_a_condemned_model_that_fits_alone_is_not_hidden() -> None:
    """It was aborted because others held the memory: killed at birth for its term, but not taken away."""
    world = world_of()
    world.other = 3 * GIB
    for _ in range(4):
        world.load("mid", 2 * GIB, loaded=False)
        world.play(5, until=lambda w: not w.model("mid"))
        world.play(1)
    assert world.state.durable.condemned
    world.play(60)
    assert world.served is not None
    assert world.served.hidden == ()


def test_a_model_that_a_person_brought_back_is_not_hidden_again() -> None:
    world = world_of()
    served = freeze(world)
    world.play(200)
    assert served.hidden == ("huge",)
    world.requests = (Request(7, "release"),)
    world.play(5)
    assert served.hidden == ()
    freeze(world)
    world.play(400)
    assert len(world.state.durable.runs) == 2
    assert served.hidden == ()


def test_release_by_hand_undoes_everything_in_any_mode() -> None:
    world = world_of()
    served = freeze(world)
    world.play(160)
    assert served.written
    world.policy = replace(world.policy, ollama=replace(world.policy.ollama, mode=Mode.OBSERVE))
    world.requests = (Request(7, "release"),)
    world.play(5)
    assert served.written == {}
    assert served.hidden == ()


def test_a_playbook_by_hand_runs_without_a_freeze_and_without_the_owners_line() -> None:
    world = world_of(Policy())
    world.requests = (Request(3, "playbook", "freeze"),)
    world.play(30)
    assert world.served is not None
    assert world.served.running
    assert steps(world)[-1] is ActionKind.VERIFY
    (reply,) = [reply for d in world.decisions for reply in d.replies]
    assert reply.ok


@pytest.mark.parametrize("name", ["", "defrost"])
def test_an_unknown_playbook_is_refused_with_those_that_there_are(name: str) -> None:
    world = world_of()
    world.requests = (Request(3, "playbook", name),)
    world.play(2)
    (reply,) = [reply for d in world.decisions for reply in d.replies]
    assert not reply.ok
    assert "freeze, models_dont_load" in reply.text


def test_models_dont_load_keeps_one_model_until_memory_is_back() -> None:
    world = world_of()
    world.load("second", 300 * MIB)
    world.play(5)
    assert len(world.models) == 2
    world.requests = (Request(3, "playbook", "models_dont_load"),)
    world.play(10)
    assert len(world.models) == 1
    world.play(80)
    (run,) = world.state.durable.runs
    assert run.ending is Ending.DONE


def narrowed(world: World) -> World:
    """models_dont_load has just begun, and memory stays short for as long as it is looked at."""
    world.requests = (Request(3, "playbook", "models_dont_load"),)
    world.play(1)
    assert world.state.durable.playbook is not None
    return world


def test_while_models_dont_load_larger_ones_are_aborted_and_never_condemned() -> None:
    """Clients go on asking for it; afterwards it loads as before."""
    world = narrowed(world_of())
    for _ in range(5):
        world.load("middle", 1 * GIB, loaded=False)
        world.play(5)
        assert world.model("middle") is None
        assert world.model("tiny") is not None
    kills = [d for d in world.decisions if any(a.kind is ActionKind.KILL for a in d.actions)]
    assert len(kills) == 5
    assert all(d.disruptive and "only the smallest model" in d.reason for d in kills)
    assert world.state.durable.condemned == ()
    assert world.state.durable.strikes == ()
    assert world.state.durable.fruitless_kills == ()
    world.play(120)
    assert world.state.durable.playbook is None
    world.load("middle", 1 * GIB, loaded=False)
    world.play(10)
    assert world.model("middle") is not None


def test_while_models_dont_load_the_smallest_itself_and_smaller_ones_load() -> None:
    """A model that can only embed answers nobody, so it is not what is kept to."""
    world = narrowed(world_of())
    for name, size in (("embed", 100 * MIB), ("tiny", 300 * MIB)):
        world.load(name, size, loaded=False)
        world.catalogue["embed"] = replace(world.catalogue["embed"], embeds=True)
        world.play(5)
        assert world.model(name) is not None
        world.models = []


def test_while_models_dont_load_a_larger_idle_one_goes_and_a_busy_one_ends_its_answer() -> None:
    world = world_of()
    world.load("idle", 500 * MIB)
    busy = world.load("busy", 600 * MIB, busy=True)
    world.play(5)
    narrowed(world)
    world.play(10)
    assert {model.name for model in world.models} == {"busy"}, "one stays at most, and it is at work"
    busy.busy = False
    world.play(20)
    assert world.models == []


@pytest.mark.parametrize("rule", [ModelRule(Preference.OMIT), ModelRule(Preference.OMIT, Protect.ALWAYS)])
def test_while_models_dont_load_what_is_never_to_be_touched_loads_all_the_same(rule: ModelRule) -> None:
    world = narrowed(world_of(replace(OWNERS_WORD, models={"middle": rule})))
    world.load("middle", 1 * GIB, loaded=False)
    world.play(10)
    assert world.model("middle") is not None


def test_while_models_dont_load_one_that_was_loading_before_goes_on() -> None:
    world = world_of()
    world.load("middle", 1 * GIB, loaded=False)
    world.play(0.2)
    narrowed(world)
    assert world.model("middle") is not None
    assert not any(a.kind is ActionKind.KILL for d in world.decisions for a in d.actions)


def test_a_guard_that_dies_meanwhile_goes_on_keeping_to_the_smallest() -> None:
    world = narrowed(world_of())
    world.restart()
    world.load("middle", 1 * GIB, loaded=False)
    world.play(5)
    assert world.model("middle") is None


def test_models_dont_load_goes_on_while_other_things_are_done() -> None:
    """A model that was condemned is hidden meanwhile, which is no step of the run."""
    world = world_of()
    world.requests = (Request(3, "playbook", "models_dont_load"),)
    world.play(2)
    while not (world.served and "huge" in world.served.hidden):
        world.load("huge", 8 * GIB, loaded=False)
        world.play(8)
        assert world.now < 1060
    world.play(5)
    assert ActionKind.QUARANTINE in steps(world)
    assert world.state.durable.playbook is not None
    assert world.state.durable.runs[-1].ending is Ending.RUNNING


def capped(world: World) -> tuple[int | None, int | None]:
    """The hard cap that is in force, and the one that waits for a start, as the status tells them."""
    snapshot = world.snapshot()
    scene = Scene(world.policy, world.state, snapshot, census(world.policy, world.state, snapshot))
    told = caps(scene, {})
    return told["hard"], told["pending"]


def test_the_hard_cap_is_written_once_it_has_settled_and_nothing_is_restarted_for_it() -> None:
    """Three models of 1 GiB were used, two fit together: two, pending until Ollama starts the next time."""
    world = world_of()
    for name in ("a", "b", "c"):
        world.load(name, 1 * GIB, loaded=False)
        world.play(20)
        world.models = [m for m in world.models if m.name != name]
        world.play(5)
    world.play(800)
    assert world.served is not None
    assert world.served.written == {"OLLAMA_MAX_LOADED_MODELS": "2"}
    assert world.served.running
    assert [a.kind for a in world.served.done] == [ActionKind.CONSTRAIN]
    assert world.served.started_at == 0.0
    assert capped(world) == (None, 2)
    world.served.pid, world.served.started_at = world.served.pid + 1, world.now  # somebody restarts it
    world.play(5)
    assert capped(world) == (2, None), "what the file adds stands in no declaration of the environment"


def stands(world: World) -> tuple[str, dict[str, str]]:
    """The state of the playbook as the status tells it, and what it says of the cap that it does not know."""
    scene, unknown = Scene(world.policy, world.state, world.snapshot(), ()), dict[str, str]()
    caps(scene, unknown)
    return playbook(scene, {})["state"], unknown


def restarted(world: World) -> None:
    """Somebody restarts Ollama."""
    served = world.served
    assert served is not None
    served.pid, served.started_at = served.pid + 1, world.now
    served.environment = dict(served.written)
    world.play(5)


def test_the_playbooks_bound_is_told_as_long_as_the_server_that_runs_has_it() -> None:
    """Before the start it waits, after the release it stays until the next start, which is told too."""
    world = world_of()
    served = freeze(world)
    world.play(120, until=lambda w: ActionKind.STOP in steps(w))
    assert capped(world) == (None, 1)
    world.play(120, until=lambda w: w.state.durable.playbook is None and bool(w.state.durable.runs))
    assert served.environment["OLLAMA_MAX_LOADED_MODELS"] == "1"
    assert capped(world) == (1, None)
    assert stands(world)[0] == "constrained"
    world.play(700, until=lambda w: w.state.durable.constrained is None)
    assert served.written == {}
    assert capped(world) == (1, None)
    state, unknown = stands(world)
    assert state == "lifted"
    assert unknown["ollama.cap.pending"] == "from its next start on Ollama has its own bound again"
    restarted(world)
    assert capped(world) == (None, None)
    state, unknown = stands(world)
    assert state == "idle"
    assert unknown["ollama.cap.pending"] == "nothing waits for a start of Ollama"


def test_after_the_constraints_the_owners_own_bound_waits_for_the_next_start() -> None:
    world = world_of()
    served = freeze(world)
    served.reading = replace(served.reading, environment={"OLLAMA_MAX_LOADED_MODELS": "3"})
    world.play(700, until=lambda w: bool(w.state.durable.runs) and w.state.durable.constrained is None)
    assert capped(world) == (1, 3)
    restarted(world)
    assert capped(world) == (3, None)


def test_a_server_that_does_not_read_the_file_keeps_its_own_bound() -> None:
    world = world_of()
    served = freeze(world)
    served.reading = replace(served.reading, constrainable=False)
    world.play(200, until=lambda w: w.state.durable.playbook is None and bool(w.state.durable.runs))
    assert world.state.durable.constrained is not None
    assert capped(world) == (None, None)


def test_a_cap_that_changes_leaves_the_old_one_in_force_until_the_next_start() -> None:
    world = world_of()
    served = world.served
    assert served is not None
    for cap in (2, 3, 4, 5, 6, 0):
        lines = (("OLLAMA_MAX_LOADED_MODELS", str(cap)),) if cap else ()
        action = Action(900 + cap, ActionKind.CONSTRAIN, Rung.CAP, world.now + 20, environment=lines)
        world.state = replace(world.state, in_flight=(action,))
        world.play(5)
        if cap == 2:
            restarted(world)
        assert capped(world) == (2, cap if cap > 2 else None)
    restarted(world)
    assert capped(world) == (None, None)


def test_no_hard_cap_is_written_where_all_models_fit() -> None:
    world = world_of()
    world.play(1500)
    assert world.served is not None
    assert not world.served.done


def gave_up(world: World) -> Served:
    """A server in state D: stop and kill hang, a start finds it running, and the run is over."""
    served = freeze(world)
    served.process_state = "D"
    served.faults = {ActionKind.STOP: ["fail"] * 9, ActionKind.KILL_SERVER: ["fail"] * 9}
    world.play(600, until=lambda w: bool(w.state.durable.runs) and w.state.durable.playbook is None)
    (run,) = world.state.durable.runs
    assert run.ending is Ending.FAILED
    assert steps(world)[-1] is ActionKind.START
    return served


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.OBSERVE])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_server_whose_kill_lands_after_the_run_is_started_again(mode: Mode, restarted: bool) -> None:  # noqa: FBT001  (a parameter of the test)
    """Docker does not bring back what it was asked to stop, so the guard does, in any mode, in any life."""
    world = world_of()
    served = gave_up(world)
    world.play(20)
    if restarted:
        world.restart()
    world.policy = replace(world.policy, ollama=replace(world.policy.ollama, mode=mode))
    served.running = False
    world.play(30)
    assert served.running
    assert not served.ill


@pytest.mark.parametrize(
    "left",
    [
        {"left_lines": {"OLLAMA_MAX_LOADED_MODELS": "1", "OLLAMA_NUM_PARALLEL": "1"}},
        {"owners_limit_bytes": 0},
        {"owners_limit_bytes": 8 * GIB},
    ],
)
def test_what_a_run_before_the_boot_set_is_the_guards_to_lift(left: dict[str, Any]) -> None:
    """A limit of ours is no reason to hide a model either: what the owner gave counts."""
    world = world_of()
    served = world.served
    assert served is not None
    world.limit = 1 * GIB
    served.reading = replace(served.reading, **left)
    world.play(10)
    constrained = world.state.durable.constrained
    assert constrained is not None
    assert constrained.container_bytes == (left.get("owners_limit_bytes", 1 * GIB) or None)
    world.play(400)
    assert ActionKind.RELEASE in [action.kind for action in served.done]
    assert world.state.durable.constrained is None


def test_a_cap_from_before_the_boot_is_in_force_and_no_constraint() -> None:
    world = world_of()
    served = world.served
    assert served is not None
    served.reading = replace(served.reading, left_lines={"OLLAMA_MAX_LOADED_MODELS": "2"})
    world.play(10)
    assert world.state.durable.constrained is None
    told = caps(Scene(world.policy, world.state, world.snapshot(), ()), {})
    assert (told["hard"], told["pending"]) == (2, None)


def test_a_server_that_dies_after_the_start_and_is_never_verified_is_started_again() -> None:
    """``restart: no``: VERIFY fails three times, and the run is over."""
    world = world_of()
    served = freeze(world)
    served.faults = {ActionKind.VERIFY: ["fail"] * 3}
    world.play(300, until=lambda w: ActionKind.START in steps(w) and served.running)
    world.play(600, until=lambda w: ActionKind.VERIFY in steps(w))
    served.running = False
    world.play(60)
    (run,) = world.state.durable.runs
    assert run.ending is Ending.FAILED
    assert served.running


def test_a_start_after_the_run_is_tried_ever_more_seldom() -> None:
    world = world_of()
    served = gave_up(world)
    served.running = False
    served.faults = {ActionKind.START: ["fail"] * 1000}
    before = len(steps(world))
    world.play(3600)
    assert 5 < len(steps(world)) - before < 25


def test_what_its_owner_stops_after_it_has_answered_stays_stopped() -> None:
    """From its first answer on, whether Ollama runs is its owner's affair."""
    for verified in (True, False):
        world = world_of()
        served = freeze(world)
        served.faults = {} if verified else {ActionKind.VERIFY: ["fail"] * 3}
        world.play(300, until=lambda w: bool(w.state.durable.runs) and w.state.durable.playbook is None)
        world.play(20)
        served.running = False
        world.play(300)
        assert not served.running


def test_a_refused_stop_starts_nothing_later() -> None:
    world = world_of()
    served = freeze(world)
    served.faults = {ActionKind.STOP: ["refuse"]}
    world.play(300, until=lambda w: bool(w.state.durable.runs) and w.state.durable.playbook is None)
    served.running = False
    world.play(60)
    assert not served.running


@pytest.mark.parametrize("ours", [True, False])
def test_only_what_the_guard_left_down_before_a_boot_is_started(ours: bool) -> None:  # noqa: FBT001  (a parameter of the test)
    world = world_of(Policy())
    served = world.served
    assert served is not None
    served.running = False
    served.reading = replace(served.reading, stopped_by_us=ours)
    world.play(30)
    assert served.running is ours
