"""Hiding and restoring by the API: every interruption between any two calls, as patroni's quorum tests do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from ollama_guard.core.quarantine import (
    ROUNDS,
    UNLOADS,
    Answer,
    Call,
    End,
    Goal,
    Known,
    Pair,
    Plan,
    Verb,
    heard,
    next_step,
    plan_of,
)

NAMES = ("big:7b", "big:latest", "hf.co/me/big:Q4")
KEPT = (
    "quarantine.registry.ollama.ai/library/big:7b",
    "quarantine.registry.ollama.ai/library/big:latest",
    "quarantine.hf.co/me/big:Q4",
)
LONGEST = 60


@dataclass
class World:
    """Ollama's names with their digests, the runner, and what was saved; as the API would change them."""

    names: dict[str, str]
    loaded: str | None = None
    saved: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    after: Callable[[World, Call], None] = lambda *_: None
    lost: list[str] = field(default_factory=list)

    def answer(self, call: Call) -> Answer:
        """Do what is asked for, then whatever a client does at this moment."""
        self.calls.append(call)
        before = set(self.names.values())
        told = self._done(call)
        if call.verb is not Verb.DELETE or not self.saved:
            self.lost += sorted(before - set(self.names.values()))
        self.after(self, call)
        return told

    def _done(self, call: Call) -> Answer:
        match call.verb:
            case Verb.LIST:
                return Answer(digests=dict(self.names))
            case Verb.COPY:
                if call.name not in self.names:
                    return Answer(error="not found", missing=True)
                assert call.other not in self.names, f"{call} would overwrite a name"
                self.names[call.other] = self.names[call.name]
            case Verb.DELETE:
                if self.names.pop(call.name, None) is None:
                    return Answer(error="not found", missing=True)
            case Verb.UNLOAD:
                if call.name not in self.names:
                    return Answer(error="not found", missing=True)
                self.loaded = None
            case Verb.LOADED:
                return Answer(loaded=frozenset({self.loaded} if self.loaded else ()))
            case Verb.SAVE:
                self.saved.add(call.name)
        return Answer()


def run(world: World, plan: Plan, most: int = LONGEST) -> End | None:
    """One life of who makes the calls: at most so many, then it is dead (None)."""
    known = Known(saved=frozenset(world.saved))
    for _ in range(most):
        step = next_step(plan, known)
        if isinstance(step, End):
            return step
        known = heard(plan, known, step, world.answer(step))
    step = next_step(plan, known)
    return step if isinstance(step, End) else None


def hide(names: tuple[str, ...] = NAMES, goal: Goal = Goal.HIDE) -> Plan:
    plan, left_out = plan_of(goal, names)
    assert not left_out
    return plan


def start(goal: Goal) -> World:
    """The names as they are before a plan with this goal; two of them share a digest, as a copy does."""
    names = KEPT if goal is Goal.RESTORE else NAMES
    return World(dict(zip(names, ("d1", "d1", "d2"), strict=True)), loaded="big:7b")


def stories(goal: Goal) -> Iterator[tuple[str, World]]:
    """Every state that an interruption at any call can leave behind, and every one that a second adds."""
    plan = hide(goal=goal)
    for first in range(LONGEST):
        world = start(goal)
        if run(world, plan, first) is not None:
            return
        yield f"dead after {first}", replace(world, names=dict(world.names), saved=set(world.saved))
        for second in range(LONGEST):
            again = replace(world, names=dict(world.names), saved=set(world.saved))
            if run(again, plan, second) is not None:
                break
            yield f"dead after {first}, then after {second}", again


@pytest.mark.parametrize("goal", Goal)
def test_after_death_between_any_two_calls_once_or_twice_a_repeat_gives_the_same_end(goal: Goal) -> None:
    plan = hide(goal=goal)
    undisturbed = start(goal)
    end = run(undisturbed, plan)
    assert end is not None
    assert not end.failed
    count = 0
    for story, world in stories(goal):
        repeated = run(world, plan)
        assert repeated is not None, story
        assert (repeated.failed, repeated.moved) == ("", end.moved), story
        assert world.names == undisturbed.names, story
        assert not world.lost, story
        count += 1
    assert count > 30


def test_in_the_end_every_name_is_hidden_once_and_the_runner_is_gone() -> None:
    world = start(Goal.HIDE)
    end = run(world, hide())
    assert end is not None
    assert [pair.name for pair in end.moved] == list(NAMES)
    assert end.detail == ""
    assert world.names == dict(zip(KEPT, ("d1", "d1", "d2"), strict=True))
    assert world.loaded is None


def test_restoring_is_the_way_back_and_unloads_nobody() -> None:
    world = start(Goal.RESTORE)
    end = run(world, hide(goal=Goal.RESTORE))
    assert end is not None
    assert [pair.name for pair in end.moved] == list(NAMES)
    assert world.names == dict(zip(NAMES, ("d1", "d1", "d2"), strict=True))
    assert not any(call.verb in (Verb.UNLOAD, Verb.LOADED, Verb.SAVE) for call in world.calls)


def test_a_repeat_of_what_is_done_changes_nothing() -> None:
    world = start(Goal.HIDE)
    run(world, hide())
    world.calls.clear()
    end = run(world, hide())
    assert end is not None
    assert not end.failed
    assert not any(call.verb in (Verb.COPY, Verb.DELETE) for call in world.calls)


@pytest.mark.parametrize("goal", [Goal.HIDE, Goal.RESTORE, Goal.DELETE])
def test_nothing_is_deleted_before_a_list_that_is_younger_than_every_copy_proved_it(goal: Goal) -> None:
    world = start(goal)
    run(world, hide(goal=goal))
    proven = False
    for call in world.calls:
        if call.verb is Verb.COPY:
            proven = False
        if call.verb is Verb.LIST:
            proven = True
        assert call.verb is not Verb.DELETE or proven


def test_a_copy_that_does_not_show_up_never_costs_the_original() -> None:
    def swallow(world: World, call: Call) -> None:
        if call.verb is Verb.COPY:
            del world.names[call.other]

    world = start(Goal.HIDE)
    world.after = swallow
    end = run(world, hide())
    assert end is not None
    assert f"after {ROUNDS + len(NAMES)} looks" in end.failed
    assert set(NAMES) <= set(world.names)


def test_a_copy_of_another_digest_never_costs_the_original() -> None:
    def spoil(world: World, call: Call) -> None:
        if call.verb is Verb.COPY:
            world.names[call.other] = "half written"

    world = start(Goal.HIDE)
    world.after = spoil
    end = run(world, hide())
    assert end is not None
    assert "another model now" in end.failed
    assert set(NAMES) <= set(world.names)


def test_a_copy_without_an_answer_ends_the_run_since_it_may_be_half_written() -> None:
    plan = hide()
    known = heard(plan, Known(), Call(Verb.LIST), Answer(digests=dict.fromkeys(NAMES, "d")))
    copy = next_step(plan, known)
    assert isinstance(copy, Call)
    end = next_step(plan, heard(plan, known, copy, Answer(error="POST /api/copy was not answered")))
    assert end == End((), "", failed="POST /api/copy was not answered")


@pytest.mark.parametrize("goal", [Goal.HIDE, Goal.RESTORE])
def test_a_name_that_holds_another_model_is_never_overwritten_nor_deleted(goal: Goal) -> None:
    names = {NAMES[0]: "mine", KEPT[0]: "another"}
    world = World(dict(names))
    end = run(world, hide((NAMES[0],), goal))
    assert end is not None
    assert end.failed == f"{NAMES[0]} is another model now than the one kept as {KEPT[0]}"
    assert world.names == names
    assert {call.verb for call in world.calls} == {Verb.LIST}


def test_one_taken_name_does_not_keep_the_others_from_being_hidden() -> None:
    world = start(Goal.HIDE)
    world.names[KEPT[1]] = "another"
    end = run(world, hide())
    assert end is not None
    assert [pair.name for pair in end.moved] == [NAMES[0], NAMES[2]]
    assert NAMES[1] in end.failed


def test_a_copy_that_an_earlier_run_made_is_used_and_not_made_again() -> None:
    world = World({NAMES[0]: "d", KEPT[0]: "d"})
    end = run(world, hide((NAMES[0],)))
    assert end is not None
    assert not end.failed
    assert world.names == {KEPT[0]: "d"}
    assert not any(call.verb is Verb.COPY for call in world.calls)


def test_of_a_name_that_a_client_pulled_back_only_the_alias_is_removed_at_restore() -> None:
    world = World({NAMES[0]: "d", KEPT[0]: "d"})
    end = run(world, hide((NAMES[0],), Goal.RESTORE))
    assert end is not None
    assert not end.failed
    assert world.names == {NAMES[0]: "d"}
    assert [call.verb for call in world.calls] == [Verb.LIST, Verb.DELETE, Verb.LIST]


@pytest.mark.parametrize("moment", range(12))
def test_a_client_that_pulls_the_name_back_at_any_moment_is_hidden_from_again(moment: int) -> None:
    def pull(world: World, _: Call) -> None:
        if len(world.calls) == moment:
            world.names[NAMES[0]] = "d1"

    world = start(Goal.HIDE)
    world.after = pull
    run(world, hide())
    world.after = lambda *_: None
    end = run(world, hide())
    assert end is not None
    assert not end.failed
    assert set(world.names) == set(KEPT)


def test_a_client_that_is_stronger_is_given_up_on_and_said() -> None:
    def pull(world: World, _: Call) -> None:
        world.names[NAMES[0]] = "d1"

    world = start(Goal.HIDE)
    world.after = pull
    end = run(world, hide())
    assert end is not None
    assert "a client brings it back" in end.failed
    assert KEPT[0] in world.names


def test_a_request_past_its_look_up_loads_it_once_more_and_it_is_unloaded_again() -> None:
    def late(world: World, call: Call) -> None:
        if call.verb is Verb.UNLOAD and sum(c.verb is Verb.UNLOAD for c in world.calls) == 1:
            world.loaded = "big:7b"

    world = start(Goal.HIDE)
    world.after = late
    end = run(world, hide())
    assert end is not None
    assert not end.failed
    assert sum(call.verb is Verb.UNLOAD for call in world.calls) == 2
    assert {call.name for call in world.calls if call.verb is Verb.UNLOAD} == {KEPT[0]}


def test_a_runner_that_answers_somebody_is_said_and_not_waited_for() -> None:
    world = start(Goal.HIDE)
    world.after = lambda world, _: setattr(world, "loaded", "big:7b")
    end = run(world, hide())
    assert end is not None
    assert "still answers somebody" in end.detail
    assert sum(call.verb is Verb.UNLOAD for call in world.calls) == UNLOADS


def test_what_is_loaded_is_known_by_its_blob_whatever_it_is_called() -> None:
    plan = replace(hide((NAMES[0],)), blob="sha256:b")
    known = Known(unloads=1)
    assert heard(plan, known, Call(Verb.LOADED), Answer(loaded=frozenset({"x:1", "sha256:b"}))).loaded
    assert not heard(plan, known, Call(Verb.LOADED), Answer(loaded=frozenset({"x:1", "sha256:c"}))).loaded


def test_deleting_first_writes_down_the_way_back_of_every_name_and_leaves_none_loaded() -> None:
    world = start(Goal.DELETE)
    end = run(world, hide(goal=Goal.DELETE))
    assert end is not None
    assert end.detail == "then deleted; what is needed to get it back was saved"
    assert world.names == {}
    assert world.saved == set(KEPT)
    assert world.loaded is None
    verbs = [call.verb for call in world.calls]
    last_save = len(verbs) - 1 - verbs[::-1].index(Verb.SAVE)
    assert all(call.name in NAMES for call in world.calls[:last_save] if call.verb is Verb.DELETE)


def test_what_could_not_be_saved_is_hidden_and_not_deleted() -> None:
    plan, known = hide((NAMES[0],), Goal.DELETE), Known()
    world = World({NAMES[0]: "d"})
    for _ in range(LONGEST):
        step = next_step(plan, known)
        if isinstance(step, End):
            break
        told = Answer(error="the disk is full") if step.verb is Verb.SAVE else world.answer(step)
        known = heard(plan, known, step, told)
    assert isinstance(step, End)
    assert step.detail == "not deleted: the disk is full"
    assert world.names == {KEPT[0]: "d"}


@pytest.mark.parametrize("goal", Goal)
def test_a_name_that_is_nowhere_is_a_failure_that_says_so(goal: Goal) -> None:
    end = run(World({"other:1": "d"}), hide((NAMES[0],), goal))
    assert end is not None
    assert end.failed.startswith(f"no model named {NAMES[0]} is ")


def test_what_ollama_would_read_as_a_place_or_refuse_is_left_out_and_an_alias_means_its_name() -> None:
    plan, left_out = plan_of(Goal.HIDE, ("far:cloud", "x:7b-cloud", "near:local", "a b", KEPT[0], "BIG:7b"))
    assert plan.pairs == (Pair(NAMES[0], KEPT[0]),)
    assert left_out == ("far:cloud", "x:7b-cloud", "near:local", "a b")


def test_a_list_that_fails_ends_the_run_with_its_sentence() -> None:
    plan = hide()
    end = next_step(plan, heard(plan, Known(), Call(Verb.LIST), Answer(error="can't connect")))
    assert end == End((), "", failed="can't connect")
