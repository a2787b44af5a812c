"""Loads in flight, and what is taken for one: aborted wrongly, too late, or at another's cost."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core.model import Level, LoadedModel, Rung, Snapshot
from ollama_guard.core.policy import GIB, MIB
from ollama_guard.testing.scenario import World, blob_of


def test_a_restarted_guard_never_aborts_a_loaded_model_whose_cache_is_not_touched_yet() -> None:
    """Its blob says 3 GiB, 2 GiB are resident, the API is silent, memory is short: that is no load."""
    world = World(other=1 * GIB)
    world.load("lazy", 2 * GIB, busy=True).foreseen = 3 * GIB
    world.api_silent_since = 0.0
    world.play(10)
    world.restart()
    world.play(10)
    assert world.model("lazy")
    assert Rung.ABORT_LOAD not in [rung for rung, _ in world.acted()]


def test_a_restarted_guard_finishes_judging_a_load_that_is_seen_to_grow() -> None:
    world = World(other=500 * MIB)
    huge = world.load("huge", 8 * GIB, loaded=False)
    huge.rate = 100 * MIB
    world.now += 8.0
    huge.taken = 800 * MIB
    world.play(5, until=lambda w: not w.model("huge"))
    assert world.acted() == [(Rung.ABORT_LOAD, ("huge",))]


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
    assert world.acted() == [(Rung.ABORT_LOAD, ("huge",))]


def test_a_load_of_unknown_size_is_aborted_at_critical_before_a_busy_one_dies() -> None:
    world = World(other=1 * GIB)
    world.load("busy", 1 * GIB, busy=True)
    world.play(5)
    loading = world.load("unknown", 4 * GIB, loaded=False)
    loading.known = False
    world.play(10)
    assert [rung for rung, _ in world.acted()] == [Rung.ABORT_LOAD]
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


def test_a_load_that_reads_evicted_weights_is_not_held_to_want_its_page_cache() -> None:
    """As it was on a real 1 GiB: 573 MiB fit beside 230, and 350 MiB of its own weights looked used."""
    world = World(capacity=8 * GIB, limit=1 * GIB)
    world.load("tiny", 230 * MIB, busy=True)
    world.play(3)
    world.reread = 350 * MIB
    world.load("mid", 573 * MIB, loaded=False)
    world.play(3)
    assert world.model("mid")
    assert not world.model("mid").loading  # type: ignore[union-attr]
    assert world.acted() == []
    assert world.state.level is Level.OK


def test_page_cache_that_is_read_back_while_nobody_loads_counts_as_used() -> None:
    world = World(capacity=8 * GIB, limit=1 * GIB)
    world.load("idle", 230 * MIB)
    world.load("busy", 273 * MIB, busy=True)
    world.play(30)
    assert world.acted() == []
    world.reread = 350 * MIB
    world.play(30)
    assert world.acted() == [(Rung.UNLOAD_IDLE, ("idle",))]


class Older(World):
    """Ollama before 0.30, which lists a model as soon as its load has begun."""

    def snapshot(self) -> Snapshot:
        """As it is, with all of them listed."""
        seen = super().snapshot()
        listed = tuple(LoadedModel(m.name, blob_of(m.name), m.size, 0, 300.0) for m in self.models)
        return replace(seen, api=replace(seen.api, version="0.5.4", loaded=listed))


def test_a_listed_load_that_waits_for_its_disk_is_no_model_at_work() -> None:
    """Seen with fifteen busy programs on two cores: at critical the ladder would kill it as busy."""
    world = Older(capacity=8 * GIB)
    mid = world.load("mid", 573 * MIB, loaded=False)
    mid.rate = 300 * MIB
    world.play(1)
    mid.rate = 0
    world.play(3)
    assert [runner.loaded_at for runner in world.state.runners] == [None]
    world.play(4)
    assert [runner.loaded_at is None for runner in world.state.runners] == [False]
