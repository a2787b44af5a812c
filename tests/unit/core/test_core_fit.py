"""`fit` says beforehand what `decide` does when the load comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ollama_guard.core import installed
from ollama_guard.core.decide import decide
from ollama_guard.core.fit import Fit, judge
from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger
from ollama_guard.core.foreseen import estimated_bytes
from ollama_guard.core.ledger import with_rows
from ollama_guard.core.model import CatalogueEntry, Preference, Rung, Snapshot
from ollama_guard.core.policy import GIB, MIB, CapPolicy, ModelRule, Policy, Protect
from ollama_guard.core.runners import census
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Condemned, State
from ollama_guard.testing.scenario import World, blob_of
from unit.core.strategies import Tale, enforcing, garbage, tales


def ask(world: World, name: str, size: int | None) -> Fit:
    """Whether a model that is installed but not loaded would fit in this world now."""
    world.tick()
    entry = CatalogueEntry(blob_of(name), (name,), size)
    return judge(scene_of(world), entry)


def scene_of(world: World) -> Scene:
    snapshot = world.snapshot()
    return Scene(world.policy, world.state, snapshot, census(world.policy, world.state, snapshot))


def test_what_fits_beside_the_others_fits() -> None:
    world = World(capacity=8 * GIB, other=1 * GIB)
    world.load("a", 1 * GIB)
    world.play(5)
    told = ask(world, "new", 2 * GIB)
    assert (told.fits, told.victims, told.short_bytes) == (True, (), 0)
    assert "it needs 2.0 GiB" in told.reason


def test_what_fits_only_with_an_idle_one_gone_names_it() -> None:
    world = World(capacity=4 * GIB, other=1 * GIB)
    world.load("old", 1 * GIB)
    world.load("busy", GIB // 2, busy=True)
    world.play(5)
    told = ask(world, "new", 2 * GIB)
    assert (told.fits, [v.title for v in told.victims], told.short_bytes) == (False, ["old"], 0)
    assert "old (idle, 1.0 GiB) would be unloaded to make room" in told.reason


def test_what_can_not_fit_says_how_much_is_missing_and_who_holds_the_rest() -> None:
    world = World(capacity=4 * GIB, other=1 * GIB)
    world.load("old", 1 * GIB)
    world.load("busy", GIB // 2, busy=True)
    world.play(5)
    told = ask(world, "huge", 4 * GIB)
    assert told.fits is False
    # 4 GiB less 1 GiB of others and the busy 0.5 GiB leave 2.5, of which 0.4 are below hard.
    assert abs(told.short_bytes - 1946 * MIB) < 20 * MIB
    assert "its load would be aborted; also loaded: busy (busy, 512 MiB)" in told.reason


def test_a_model_whose_abort_the_owner_forbade_still_does_not_fit() -> None:
    rule = ModelRule(Preference.OMIT, Protect.ALWAYS)
    world = World(other=1 * GIB, policy=Policy(models={"huge": rule}))
    world.play(3)
    assert ask(world, "huge", 8 * GIB).fits is False


def test_a_measured_size_counts_before_the_file() -> None:
    world = World(capacity=4 * GIB, other=1 * GIB)
    row = Footprint(FootprintKey(blob_of("new"), 4096, 1), anon_bytes=5 * GIB, asked_at=5.0)
    world.ledger = with_rows(Ledger(), [row])
    world.play(3)
    told = ask(world, "new", 1 * GIB)
    assert (told.fits, told.needs_bytes, told.measured) == (False, 5 * GIB, True)
    assert "(as measured before)" in told.reason


def test_the_context_is_that_of_the_last_load() -> None:
    world = World(capacity=4 * GIB)
    keys = (FootprintKey(blob_of("new"), 4096, 1), FootprintKey(blob_of("new"), 32768, 1))
    rows = [Footprint(key, anon_bytes=(i + 1) * GIB, asked_at=9.0 - i) for i, key in enumerate(keys)]
    world.ledger = with_rows(Ledger(), rows)
    world.play(3)
    assert ask(world, "new", 1 * GIB).needs_bytes == 1 * GIB


def test_a_condemned_model_does_not_fit_and_the_reason_says_so() -> None:
    world = World(capacity=8 * GIB)
    world.play(3)
    record = Condemned(blob_of("new"), ("new",), world.now, world.now + 300, 600.0, 9 * GIB)
    world.state = replace(world.state, durable=replace(world.state.durable, condemned=(record,)))
    told = judge(scene_of(world), CatalogueEntry(blob_of("new"), ("new",), 1 * GIB))
    assert told.fits is False
    assert "condemned" in told.reason
    (row,) = installed.view(world.policy, world.state, with_catalogue(world, "new", 1 * GIB))["models"]
    assert row["state"] == "condemned"


def with_catalogue(world: World, name: str, size: int) -> Snapshot:
    return replace(world.snapshot(), catalogue=(CatalogueEntry(blob_of(name), (name,), size),))


def test_what_is_not_known_is_not_answered() -> None:
    world = World()
    world.play(3)
    assert ask(world, "new", None).fits is None
    blind = replace(scene_of(world), snapshot=replace(world.snapshot(), blind=("no meminfo",)))
    told = judge(blind, CatalogueEntry(blob_of("new"), ("new",), 1))
    assert (told.fits, told.reason) == (None, "no meminfo")


def test_the_cap_is_told_when_it_would_cost_another_its_place() -> None:
    world = World(capacity=15 * GIB, policy=Policy(cap=CapPolicy(1)))
    world.load("a", 1 * GIB)
    world.play(5)
    told = ask(world, "new", 1 * GIB)
    assert told.fits
    assert "the soft cap is 1, so a (idle, 1.0 GiB) would go" in told.reason


def test_aliases_of_one_blob_are_one_row_and_a_loaded_one_fits() -> None:
    world = World(capacity=8 * GIB)
    world.load("a", 1 * GIB, aliases=("a-alias", "zzz"))
    world.play(5)
    world.tick()
    document = installed.view(world.policy, world.state, world.snapshot())
    (row,) = document["models"]
    assert (row["name"], row["aliases"], row["state"], row["fits"]) == ("a", ["zzz", "a-alias"], "idle", True)
    assert document["unknown"] == {}
    assert row["pid"] == world.models[0].pid


def test_no_installed_model_is_told_with_a_reason() -> None:
    world = World()
    world.play(1)
    assert "models" in installed.view(world.policy, world.state, world.snapshot())["unknown"]


@given(tales(enforcing), st.integers(16, 6000).map(lambda n: n * MIB))
def test_what_fits_is_never_aborted_at_birth_and_what_can_not_fit_always_is(tale: Tale, size: int) -> None:
    """The story's troubles apart: memory stands still while the load is judged."""
    world = tale.begin()
    assume(world.model("new") is None and world.state.level == 0)
    told = ask(world, "new", size)
    assume(told.fits is not None)
    world.load("new", size, loaded=False)
    before = len(world.decisions)
    world.play(12, until=lambda w: not w.model("new"))
    rungs = {d.rung for d in world.decisions[before:] for a in d.actions if a.names == ("new",)}
    others = {name for rung, names in world.acted() for name in names if rung is Rung.UNLOAD_IDLE}
    if told.fits or not told.short_bytes:
        assert Rung.ABORT_LOAD not in rungs, (told, world.decisions[before:])
        # A load may outrun the unload that makes room for it: 1 GiB/s here, into 256 MiB.
        assert world.oom_kills == 0 or told.victims
    else:
        assert Rung.ABORT_LOAD in rungs, (told, world.decisions[before:])
    if told.victims and not told.short_bytes:
        assert {victim.names[0] for victim in told.victims} <= others


@given(garbage)
def test_no_snapshot_at_all_makes_it_fail(snapshot: Snapshot) -> None:
    state, _ = decide(Policy(), State(), snapshot)
    document = installed.view(Policy(), state, snapshot)
    assert len(document["models"]) == len(snapshot.catalogue)


@pytest.mark.parametrize(("kept_as", "share"), [("", 1.0), ("f16", 1.0), ("q8_0", 34 / 64), ("what?", 1.0)])
def test_a_cache_of_fewer_bits_is_foreseen_smaller(kept_as: str, share: float) -> None:
    world = World()
    world.load("new", 1 * GIB, loaded=False)
    entry = replace(world.catalogue["new"], kv_bytes_per_token=64 * 1024)
    world.catalogue["new"] = entry
    snapshot = world.snapshot()
    (reading,) = snapshot.runners
    told = estimated_bytes(replace(reading, cache_type=kept_as, context_tokens=8192), snapshot)
    assert told == 1 * GIB + int(64 * 1024 * share * 8192)
