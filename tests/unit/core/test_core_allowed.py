"""What holds of the ladder whatever happens, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_guard.core import tierstatus
from ollama_guard.core.allowed import top
from ollama_guard.core.conditions import blind_reasons
from ollama_guard.core.decide import decide
from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger
from ollama_guard.core.ledger import with_rows
from ollama_guard.core.model import Activity, CatalogueEntry, Level
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.core.state import State
from ollama_guard.core.status import view
from ollama_guard.core.tiers import Tier, TierState
from ollama_guard.testing.scenario import World, blob_of
from unit.core.strategies import Tale, enforcing, tales
from unit.core.test_core_properties import told

SMALLEST = "it is the smallest that can be had now"
LADDER = (
    Tier("light", "a", memory_bytes=64 * MIB),
    Tier("default", "b:latest"),
    Tier("heavy", "c", memory_bytes=2 * GIB),
)
laddered = enforcing.map(lambda policy: replace(policy, tiers=LADDER))


def begun(tale: Tale, sizes: tuple[int, int, int]) -> World:
    """The tale's world with every model of the ladder on its shelf, in sixteenths of the machine."""
    world = tale.begin()
    for tier, size in zip(LADDER, sizes, strict=True):
        name = tier.model.removesuffix(":latest")
        if name not in world.catalogue:
            world.install(name, world.capacity * size // 16)
    return world


sizes = st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(2, 18))


@settings(max_examples=100)
@given(tales(laddered), sizes)
def test_what_memory_refused_comes_back_only_after_quiet(tale: Tale, shelf: tuple[int, int, int]) -> None:
    """For a whole transition nothing spoke against it; only the smallest that can be had is spared that."""
    spoken: dict[str, float] = {}
    for moment in told(tale, begun(tale, shelf)):
        judged_at = moment.after.tiers_judged_at
        for tier in moment.after.tiers:
            if judged_at in (tier.unfit_at, tier.strained_at) and judged_at is not None:
                spoken[tier.name] = judged_at
            if tier.allowed and not tier.reason.startswith(SMALLEST) and tier.name in spoken:
                assert judged_at is not None
                assert judged_at - spoken[tier.name] >= tale.policy.transition_seconds


SPELLS = st.sampled_from((0.5, 1.0, 2.5, 4.0, 12.0))


@settings(max_examples=12)
@given(st.integers(20, 180), st.lists(st.tuples(SPELLS, SPELLS), min_size=4, max_size=8))
def test_however_a_larger_one_works_and_rests_the_position_rises_once_in_a_transition_at_most(
    room_mib: int, spells: list[tuple[float, float]]
) -> None:
    """At soft, where each tier is too much, and the smaller one has no room beside the one at work."""
    ladder = (Tier("small", "a", memory_bytes=200 * MIB), Tier("larger", "b", memory_bytes=400 * MIB))
    world = World(policy=Policy(tiers=ladder, transition_seconds=20.0))
    world.install("a", 150 * MIB)
    world.load("b", 400 * MIB)
    world.play(5)
    world.hog_taken = world.hog_target = world.capacity * 9 // 10 - world.used - room_mib * MIB
    places: list[tuple[float, int]] = []

    def noted(world: World) -> bool:
        held = top(world.state.tiers)
        place = -1 if held is None else [tier.name for tier in ladder].index(held.name)
        if not places or places[-1][1] != place:
            places.append((world.now, place))
        return False

    world.play(25, until=noted)
    assert world.state.level is Level.SOFT
    for work, rest in spells:
        model = world.model("b")
        if model is None or model.gone_at is not None:
            model = world.load("b", 400 * MIB, loaded=False)
            world.play(0.5, until=noted)
        model.busy = True
        world.play(work, until=noted)
        model.busy = False
        world.play(rest, until=noted)
    rises = [at for (_, before), (at, after) in pairwise(places) if after > before]
    assert all(later - earlier >= 20.0 for earlier, later in pairwise(rises))


@given(tales(laddered), sizes)
def test_as_long_as_a_tier_is_loaded_and_ollama_answers_some_tier_is_allowed(
    tale: Tale, shelf: tuple[int, int, int]
) -> None:
    ladder = {blob_of(tier.model.removesuffix(":latest")) for tier in LADDER}
    for moment in told(tale, begun(tale, shelf)):
        state, durable = moment.after, moment.before.durable
        away = durable.playbook is not None or durable.stopped is not None or state.symptoms.frozen
        silent = tale.policy.ollama.unresponsive_after_seconds
        answered = moment.snapshot.api.answered_at or 0.0
        if away or moment.snapshot.now - answered > silent or blind_reasons(moment.snapshot):
            continue
        serving = [
            runner
            for runner in moment.scene.runners
            if runner.reading.blob in ladder and runner.activity in (Activity.IDLE, Activity.BUSY)
        ]
        if serving and state.tiers_judged_at == moment.snapshot.now:
            assert top(state.tiers) is not None


@given(tales(laddered), sizes)
def test_only_installed_tiers_are_allowed_and_the_largest_is_the_last_of_them(
    tale: Tale, shelf: tuple[int, int, int]
) -> None:
    world = begun(tale, shelf)
    del world.catalogue["c"]
    for moment in told(tale, world):
        there = {name for entry in moment.snapshot.catalogue for name in entry.names}
        document = view(tale.policy, moment.after, moment.snapshot, {})
        allowed = [tier["name"] for tier in document["tiers"] if tier["allowed"]]
        assert document["largest_allowed"] == (allowed[-1] if allowed else None)
        assert (document["largest_allowed"] is None) == ("largest_allowed" in document["unknown"])
        models = {tier["name"]: tier["model"].removesuffix(":latest") for tier in document["tiers"]}
        if moment.after.tiers_judged_at == moment.snapshot.now:
            assert all(models[name] in there for name in allowed)


# ---- what is told


def calm(policy: Policy | None = None, **shelf: int) -> World:
    """A host with some of the ladder's models installed, a few seconds after the guard's start."""
    world = World(policy=policy or Policy(tiers=LADDER))
    for name, size in shelf.items():
        world.install(name, size)
    world.play(4)
    return world


def status(world: World, **changes: Any) -> dict[str, Any]:
    return view(world.policy, world.state, replace(world.snapshot(), **changes), {})


def ladder(world: World) -> dict[str, dict[str, Any]]:
    """The document of `tiers`, by name."""
    document = tierstatus.view(world.policy, world.state, world.snapshot())
    return {row["name"]: row for row in document["tiers"]}


def test_without_a_ladder_there_is_none_and_the_status_says_why() -> None:
    document = status(calm(Policy(), a=MIB))
    assert (document["tiers"], document["largest_allowed"]) == ([], None)
    assert document["unknown"]["largest_allowed"] == "the configuration has no [[tiers]]"


def test_before_ollama_has_told_what_is_installed_nothing_is_said_of_any_tier() -> None:
    document = status(calm())
    assert [tier["allowed"] for tier in document["tiers"]] == [None, None, None]
    assert document["largest_allowed"] is None
    said = "Ollama has told of no installed model yet"
    assert document["unknown"]["largest_allowed"] == document["unknown"]["tiers.light.allowed"] == said


def test_a_guard_that_has_just_started_gets_to_know_who_is_loaded_first() -> None:
    """What is loaded would else be memory that nobody can have, and the ladder would wait for quiet."""
    world = World(policy=Policy(tiers=LADDER))
    world.load("c", 2 * GIB)
    world.install("a", 64 * MIB)
    world.install("b", 1500 * MIB)
    world.tick()
    assert status(world)["largest_allowed"] is None
    world.play(5)
    assert [tier.allowed for tier in world.state.tiers] == [True, True, True]


def test_two_tiers_of_one_blob_are_told_as_what_they_are() -> None:
    world = calm(a=64 * MIB, c=256 * MIB)
    entry = CatalogueEntry(blob_of("a"), ("a", "b:latest"), 64 * MIB)
    world.catalogue["a"] = entry
    world.play(2)
    row = ladder(world)["default"]
    assert (row["allowed"], row["same_model_as"]) == (True, "light")
    (told_of,) = [tier for tier in status(world)["tiers"] if tier["name"] == "default"]
    assert told_of["reason"].endswith("; its model is that of tier light (a) too")


def test_a_hidden_model_is_installed_and_not_allowed() -> None:
    world = calm(a=64 * MIB, b=128 * MIB)
    assert ladder(world)["default"]["allowed"]
    entry = QuarantineEntry("b", "quarantine/b", blob_of("b"), Hidden.OFFLINE, 1.7e9)
    world.pass_time(1)
    snapshot = replace(world.snapshot(), store=StoreReading("/models", writable=True, entries=(entry,)))
    state, _ = decide(world.policy, world.state, snapshot)
    row = tierstatus.view(world.policy, state, snapshot)["tiers"][1]
    assert (row["installed"], row["fits"]) == (True, None)
    assert (row["allowed"], row["reason"]) == (False, "b:latest is hidden from clients (quarantine)")


def test_a_measured_footprint_counts_before_what_the_owner_expects() -> None:
    world = calm(a=32 * MIB, c=GIB)
    expected = ladder(world)["heavy"]
    assert (expected["footprint_bytes"], expected["footprint_measured"]) == (2 * GIB, False)
    row = Footprint(FootprintKey(blob_of("c"), 4096, 1), anon_bytes=1100 * MIB, asked_at=5.0)
    world.ledger = with_rows(Ledger(), [row])
    measured = ladder(world)["heavy"]
    assert (measured["footprint_bytes"], measured["footprint_measured"]) == (1100 * MIB, True)


def test_of_what_is_not_installed_the_expected_size_is_shown() -> None:
    row = ladder(calm(a=32 * MIB))["heavy"]
    assert (row["installed"], row["footprint_bytes"], row["fits"]) == (False, 2 * GIB, None)
    assert row["reason"] == "c is not installed"


def test_while_blind_everything_stays_as_it_was() -> None:
    world = calm(a=32 * MIB, b=64 * MIB)
    before = [tier.allowed for tier in world.state.tiers]
    world.pass_time(1)
    snapshot = replace(world.snapshot(), blind=("whose pid 7 is can't be read",))
    state, _ = decide(world.policy, world.state, snapshot)
    assert [tier.allowed for tier in state.tiers] == before
    assert state.tiers[0].reason == "blind: whose pid 7 is can't be read; allowed, as before"


def test_each_change_is_one_sentence_that_names_both_ends() -> None:
    def state(allowed: str) -> State:
        names = ("light", "default", "heavy")
        tiers = (TierState(name, f"{name}:1b", name in allowed, "it is too much") for name in names)
        return State(tiers=tuple(tiers))

    def said(before: State, after: State) -> list[str]:
        return [event.message for event in tierstatus.changed(before, after)]

    whole, part, none = state("light default heavy"), state("light"), state("")
    assert said(whole, part) == [
        "the largest tier that may be used is light (light:1b) now (before: heavy): it is too much"
    ]
    assert said(part, whole) == ["tiers up to heavy (heavy:1b) may be used again (before: light)"]
    assert said(part, none) == ["no tier may be used now (before: light): it is too much"]
    assert said(State(), whole) == ["tiers up to heavy (heavy:1b) may be used"]
    assert said(State(), none) == said(whole, whole) == said(whole, State()) == []
