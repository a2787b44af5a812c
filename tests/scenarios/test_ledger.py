"""Stories in which the guard knows its models: what they cost, how often they are asked for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger
from ollama_guard.core.ledger import DAY_SECONDS, rows_of, with_rows
from ollama_guard.core.model import Activity, Rung
from ollama_guard.core.policy import GIB, MIB, ModelRule, Policy, Preference
from ollama_guard.core.runners import census
from ollama_guard.testing.scenario import World, blob_of

KEPT_LONG = Ledger(at=1000.0, watched_seconds=20 * DAY_SECONDS)


def row(name: str, per_day: float = 1.0, load_seconds: float = 5.0, **changes: int) -> Footprint:
    """A row of a model that is asked for so often, now and for ever."""
    return Footprint(
        FootprintKey(blob_of(name), 4096, 1), load_seconds=load_seconds, asked=per_day * 8.7,
        asked_at=KEPT_LONG.watched_seconds, **changes,
    )  # fmt: skip


def two_idle_ones(ledger: Ledger, **policy: object) -> World:
    """``often`` was used long ago and ``seldom`` just now; both are idle, and either alone suffices."""
    world = World(other=500 * MIB, ledger=ledger, policy=Policy(**policy))  # type: ignore[arg-type]
    world.load("often", 1200 * MIB)
    seldom = world.load("seldom", 1200 * MIB)
    world.play(3)
    seldom.busy = True
    world.play(5)
    seldom.busy = False
    world.play(10)
    return world


def squeezed(world: World) -> World:
    world.hog_rate, world.hog_target = 100 * MIB, 900 * MIB
    world.play(20, until=lambda w: any(d.actions for d in w.decisions))
    return world


def told(world: World) -> str:
    return next(decision.reason for decision in world.decisions if decision.actions)


def test_the_sentence_says_what_goes_and_how_much_is_needed() -> None:
    """One model alone with its size; of several what they come to as well."""
    size = r"[\d.]+ [MG]iB"
    one = rf": unload often \(idle \d+ s, 1\.2 GiB\), since {size} are needed; the longest unused first$"
    assert re.search(one, told(squeezed(two_idle_ones(Ledger()))))
    world = World(other=200 * MIB)
    world.load("a", 300 * MIB)
    world.load("b", 300 * MIB)
    world.play(10)
    world.other = 3000 * MIB
    world.play(15)
    both = rf": unload \w \(idle .*?\), \w \(idle .*?\), 600 MiB together, since {size} are needed$"
    assert re.search(both, told(world))


def test_before_a_week_the_longest_unused_goes() -> None:
    young = replace(KEPT_LONG, watched_seconds=6 * DAY_SECONDS)
    world = squeezed(two_idle_ones(with_rows(young, [row("often", 3, 12), row("seldom", 0.1)])))
    assert world.decisions[-1].actions[0].names == ("often",)
    assert told(world).endswith("; the longest unused first")


def test_with_a_week_of_ledger_the_one_that_is_missed_least_goes() -> None:
    """The same host, the same models; and the sentence says why."""
    world = squeezed(two_idle_ones(with_rows(KEPT_LONG, [row("often", 3, 12), row("seldom", 0.1)])))
    assert world.decisions[-1].actions[0].names == ("seldom",)
    assert ", asked for 2 times a week, 5.0 s to load)" in told(world)
    assert told(world).endswith("; the least worth first")


def test_a_dear_load_outweighs_frequency() -> None:
    """Twice a day a minute to load costs more than thrice a day a second."""
    world = squeezed(two_idle_ones(with_rows(KEPT_LONG, [row("often", 3, 1), row("seldom", 2, 60)])))
    assert world.decisions[-1].actions[0].names == ("often",)
    assert ", asked for 3 times a day, 1.0 s to load)" in told(world)


def test_a_model_that_the_ledger_does_not_know_is_missed_least() -> None:
    world = squeezed(two_idle_ones(with_rows(KEPT_LONG, [row("often", 3, 12)])))
    assert world.decisions[-1].actions[0].names == ("seldom",)


def test_the_owners_preference_comes_before_worth() -> None:
    avoid = {"seldom": ModelRule(Preference.AVOID)}
    ledger = with_rows(KEPT_LONG, [row("often", 3, 12), row("seldom", 0.1)])
    world = squeezed(two_idle_ones(ledger, models=avoid))
    assert world.decisions[-1].actions[0].names == ("often",)


def test_an_idle_one_of_much_worth_goes_before_a_busy_one_of_little() -> None:
    world = World(other=500 * MIB, ledger=with_rows(KEPT_LONG, [row("often", 30, 60), row("seldom", 0.01)]))
    world.load("often", 1200 * MIB)
    world.load("seldom", 1200 * MIB, busy=True)
    world.play(5)
    squeezed(world)
    assert world.decisions[-1].actions[0].names == ("often",)
    assert world.decisions[-1].rung is Rung.UNLOAD_IDLE


def test_a_load_use_and_unload_are_learnt_and_the_next_load_is_judged_by_them() -> None:
    """Its blob says 1 GiB and it takes 2: the first load is relieved too late, the second is foreseen."""
    world = World(capacity=6 * GIB, other=500 * MIB)
    model = world.load("m", 2 * GIB, loaded=False)
    model.foreseen = 1 * GIB
    world.play(10)
    model.busy = True
    world.play(5)
    model.busy = False
    world.play(5)
    (learnt,) = rows_of(world.ledger)
    assert learnt.key == FootprintKey(blob_of("m"), 4096, 1)
    assert learnt.anon_bytes == 2 * GIB
    assert learnt.load_seconds == pytest.approx(2.0, abs=0.3)
    assert (learnt.loads, learnt.uses) == (1, 2)

    world.hog_rate, world.hog_target = 500 * MIB, 3500 * MIB
    world.play(20)
    assert not world.model("m")
    (learnt,) = rows_of(world.ledger)
    assert learnt.unload_seconds == pytest.approx(world.unload_seconds, abs=0.15)
    assert learnt.peak_bytes == pytest.approx(2 * GIB, abs=4 * MIB)

    again = world.load("m", 2 * GIB, loaded=False)
    again.foreseen = 1 * GIB
    world.play(5, until=lambda w: not w.model("m"))
    assert again.taken < 0.3 * again.size
    aborts = [d for d in world.decisions if d.rung is Rung.ABORT_LOAD]
    assert "2.0 GiB (as measured before)" in aborts[0].reason


def test_while_ollama_says_nothing_a_wait_is_not_learnt_as_a_load() -> None:
    """Else each load of a model that is there at once would be waited for twice as long as the last."""
    world = World(capacity=8 * GIB)
    world.play(1)
    world.api_silent_since = world.now
    for _ in range(3):
        model = world.load("m", 100 * MIB, loaded=False)
        model.taken = model.size
        world.play(8)
        (runner,) = census(world.policy, world.state, world.snapshot())
        assert runner.activity is not Activity.LOADING
        model.gone_at = world.now
        world.play(2)
    (learnt,) = rows_of(world.ledger)
    assert (learnt.loads, learnt.load_seconds) == (3, None)
    assert learnt.anon_bytes == 100 * MIB


def test_without_the_ledger_the_same_load_is_not_foreseen() -> None:
    world = World(capacity=6 * GIB, other=4 * GIB)
    again = world.load("m", 2 * GIB, loaded=False)
    again.foreseen = 1 * GIB
    world.play(5, until=lambda w: not w.model("m"))
    assert again.taken >= 0.3 * again.size


def test_a_kill_of_a_busy_one_is_an_answer_cut() -> None:
    world = World(other=500 * MIB)
    model = world.load("m", 1500 * MIB, loaded=False)
    world.play(10)
    model.busy = True
    world.play(5)
    world.hog_rate, world.hog_target = 800 * MIB, 1900 * MIB
    world.play(20)
    assert not world.model("m")
    (learnt,) = rows_of(world.ledger)
    assert learnt.answers_cut == 1


def test_a_runner_that_was_there_before_the_guard_teaches_no_size() -> None:
    """Its prompt cache may hold gigabytes by now, and no load begins with them."""
    world = World(capacity=8 * GIB)
    model = world.load("m", 2 * GIB)
    world.play(10)
    model.busy = True
    world.play(5)
    (learnt,) = rows_of(world.ledger)
    assert (learnt.anon_bytes, learnt.load_seconds, learnt.loads, learnt.uses) == (None, None, 0, 1)


def test_a_stall_of_the_guard_is_no_use_of_the_models() -> None:
    world = World()
    world.load("m", 1 * GIB)
    world.play(10)
    world.now += 3600.0
    world.play(10)
    assert not list(rows_of(world.ledger))


def test_a_load_that_waits_for_a_slow_disk_is_still_a_load() -> None:
    """Six seconds of standstill: over for who does not know the model, half way for who has seen it load."""
    seen = {}
    for name, ledger in (
        ("known", with_rows(KEPT_LONG, [row("m", load_seconds=30.0)])),
        ("unknown", Ledger()),
    ):
        world = World(capacity=8 * GIB, ledger=ledger)
        model = world.load("m", 2 * GIB, loaded=False)
        world.play(1)
        model.rate = 0
        world.play(6)
        (runner,) = census(world.policy, world.state, world.snapshot())
        seen[name] = runner.activity
    assert seen["known"] is Activity.LOADING
    assert seen["unknown"] is not Activity.LOADING


def test_a_blob_that_is_known_to_leave_slowly_is_unloaded_earlier() -> None:
    """The forecast counts with its own measured seconds."""
    levels = {}
    for seconds in (None, 5.0):
        known = Footprint(FootprintKey(blob_of("m"), 4096, 1), unload_seconds=seconds)
        world = World(ledger=with_rows(Ledger(), [known]))
        world.load("m", 1 * GIB)
        world.play(5)
        world.hog_rate, world.hog_target = 100 * MIB, 2 * GIB
        world.play(30, until=lambda w: any(d.actions for d in w.decisions))
        levels[seconds] = world.capacity - world.used
    assert levels[5.0] > levels[None] + 200 * MIB
