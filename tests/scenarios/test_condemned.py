"""What a model is condemned for, what it is not, and who takes that back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core import hiding
from ollama_guard.core.model import ActionKind, Level, Preference, Request, Rung
from ollama_guard.core.policy import GIB, MIB, Authority, ModelRule, OllamaPolicy, Policy, QuarantinePolicy
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.core.recovery import Ending
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Condemned
from ollama_guard.testing.scenario import Model, World, blob_of
from ollama_guard.testing.served import Served

OWNERS_WORD = Policy(ollama=OllamaPolicy(authority=Authority.SERVER))
KV_BYTES = 112 * 1024  # a token of a 3B model


def world_of(policy: Policy = OWNERS_WORD, limit: int | None = None) -> World:
    """Eight GiB with the owner's word, at rest."""
    world = World(policy=policy, capacity=8 * GIB, limit=limit, served=Served())
    world.play(5)
    return world


def asked(world: World, context: int, weights: int = 1900 * MIB) -> Model:
    """A client asks for the chat model with so much context: its load is in flight."""
    model = world.load("chat", weights + context * KV_BYTES, loaded=False)
    model.foreseen, model.context = weights, context
    entry = replace(world.catalogue["chat"], size_bytes=weights, kv_bytes_per_token=KV_BYTES)
    world.catalogue["chat"] = replace(entry, training_context=131072)
    return model


def in_vain(world: World, times: int, context: int, weights: int = 1900 * MIB) -> None:
    """It is asked for again and again, and each load is ended."""
    for _ in range(times):
        asked(world, context, weights)
        world.play(4, until=lambda w: not w.model("chat"))
        assert not world.model("chat")
        world.play(1)


def record(world: World) -> Condemned:
    (condemned,) = world.state.durable.condemned
    return condemned


def hidden(world: World) -> tuple[str, ...]:
    assert world.served is not None
    return world.served.hidden


def test_one_client_with_a_huge_context_takes_the_model_from_nobody_else() -> None:
    """Its own loads are ended at birth; one with the usual context is let through, and nothing is hidden."""
    world = world_of()
    in_vain(world, 4, 131072)
    assert record(world).context_tokens == 131072
    world.play(30)
    assert hidden(world) == ()
    asked(world, 4096)
    world.play(10)
    assert world.model("chat")
    assert not world.model("chat").loading  # type: ignore[union-attr]


def test_what_cannot_fit_with_the_least_context_is_hidden() -> None:
    world = world_of()
    in_vain(world, 3, 4096, weights=9 * GIB)
    world.play(10)
    assert hidden(world) == ("chat",)


@pytest.mark.parametrize("by_kernel", [False, True])
def test_a_prompt_cache_that_fills_a_container_is_no_need_of_the_model(*, by_kernel: bool) -> None:
    """It grows until it is killed, twice; the model itself fits: not hidden, and not lost for long."""
    world = world_of(limit=4 * GIB)
    for _ in range(2):
        model = asked(world, 4096)
        world.play(6)
        assert not model.loading
        world.play(90)
        model.busy = True
        if by_kernel:
            world.models = [m for m in world.models if m.name != "chat"]
            world.oom_kills += 1
            world.play(6)
        else:
            model.size, model.taken = 3950 * MIB, 3950 * MIB
            world.play(5, until=lambda w: not w.model("chat"))
            assert not world.model("chat")
            world.play(1)
    assert record(world).needs_bytes < 2600 * MIB
    world.play(30)
    assert hidden(world) == ()
    world.play(60)
    assert not world.state.durable.condemned, "it fits, so it is pardoned"


def test_who_brings_a_model_back_by_hand_gets_it_back() -> None:
    world = world_of()
    in_vain(world, 3, 4096, weights=9 * GIB)
    world.play(10)
    assert hidden(world) == ("chat",)
    world.requests = (Request(7, "restore", model="chat"),)
    world.play(3)
    assert hidden(world) == ()
    assert not world.state.durable.condemned
    assert not world.state.durable.strikes


def test_release_takes_every_verdict_back() -> None:
    world = world_of()
    in_vain(world, 2, 131072)
    assert world.state.durable.condemned
    world.requests = (Request(7, "release"),)
    world.play(3)
    assert not world.state.durable.condemned


def test_a_machine_that_stays_short_for_others_reasons_is_kept_in_order_all_the_same() -> None:
    """Below soft for good, nothing of Ollama's could help: what can never fit is hidden as elsewhere."""
    world = world_of()
    world.other = 6800 * MIB
    world.play(20)
    assert world.state.level is Level.SOFT
    in_vain(world, 3, 4096, weights=9 * GIB)
    world.play(10)
    assert world.state.level is Level.SOFT
    assert hidden(world) == ("chat",)


def test_after_a_stall_who_was_idle_is_idle_and_goes_before_who_is_busy() -> None:
    """The guard sees nothing for a while, and finds memory at its end."""
    world = World()
    world.load("old", 700 * MIB)
    world.load("talking", 900 * MIB, busy=True)
    world.play(10)
    world.pass_time(30.0)
    world.hog_target = world.hog_rate = world.capacity - world.used - 100 * MIB
    world.pass_time(1.0)
    world.api_silent_since = world.now - 60
    world.play(2, until=lambda w: not w.model("old") or not w.model("talking"))
    assert world.model("talking")
    assert not world.model("old")


def test_an_unload_that_drags_on_at_the_end_of_memory_is_not_waited_for() -> None:
    """Unloads were slow here, so patience is long; but nothing is left, and nothing falls any more."""
    world = World(unload_seconds=30.0)
    world.load("idle", 900 * MIB)
    world.load("busy", 900 * MIB, busy=True)
    world.play(5)
    world.state = replace(world.state, rates=replace(world.state.rates, unload=10.0))
    world.hog_target = world.hog_rate = world.capacity - world.used - 60 * MIB
    world.pass_time(1.0)
    begun = world.now
    world.play(10, until=lambda w: not w.model("idle"))
    assert not world.model("idle")
    assert world.now - begun < 4
    assert (Rung.KILL_RUNNER, ("idle",)) in world.acted()
    assert any(a.kind is ActionKind.UNLOAD for d in world.decisions for a in d.actions)
    assert world.model("busy")


def test_a_model_that_the_owner_wants_let_be_is_not_hidden() -> None:
    """`omit` is hands off below critical: a model that is not there for clients would be more than that."""
    models = {"chat": ModelRule(Preference.OMIT)}
    world = world_of(replace(OWNERS_WORD, models=models))
    world.load("chat", 9 * GIB)
    world.models = []
    assert world.served is not None
    world.served.ill, world.served.process_state = True, "T"
    world.play(200)
    (run,) = world.state.durable.runs
    assert run.ending is Ending.DONE
    assert hidden(world) == ()


def test_a_hidden_model_whose_note_is_lost_comes_back_by_its_files_size() -> None:
    lost = QuarantineEntry("chat", "quarantine/chat", blob_of("chat"), Hidden.OFFLINE, 1.7e9, 3 * GIB)
    world = world_of(replace(OWNERS_WORD, quarantine=QuarantinePolicy(restore=True)))
    scene = Scene(
        world.policy, world.state, replace(world.snapshot(), store=StoreReading(entries=(lost,))), ()
    )
    assert hiding.fits_since(scene) == {"chat": world.now}
