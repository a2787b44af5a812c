"""Stories of models that clients keep for ever, told to the core with a stepped clock."""

from __future__ import annotations

import pytest

from ollama_guard.core.events import Event
from ollama_guard.core.model import Rung
from ollama_guard.core.policy import GIB, MIB
from unit.core.pinned import FOR_EVER_SECONDS, gone_after, live, pinned, shorten

SOFT_BYTES = int(0.2 * 16 * GIB)


def test_while_all_is_calm_a_pinned_model_stays_and_nothing_is_remembered() -> None:
    world = pinned()
    told, made = live(world, 600)
    assert world.model("chat")
    assert not any(decision.actions for decision in made)
    assert not any(event.name == "keepalive.capped" for event in told)
    assert world.state.governed == {}


def test_a_busy_model_is_let_be_for_as_long_as_it_answers() -> None:
    world = shorten(pinned())
    chat = world.model("chat")
    assert chat is not None
    chat.busy = True
    live(world, 180)
    assert world.model("chat")
    assert not world.model("code")


def test_a_client_that_pins_again_and_again_is_let_be_and_fills_no_log() -> None:
    """An empty prompt moves the end that Ollama lists, and takes no CPU time: that model is asked for too."""
    world = shorten(pinned())
    lines: list[Event] = []
    for _ in range(240):
        told, _ = live(world, 5)
        lines += told
        chat = world.model("chat")
        assert chat is not None
        chat.expires_at = world.now + FOR_EVER_SECONDS
    about = [event for event in lines if "chat" in str(event.fields.get("names"))]
    assert [event.name for event in about] == ["keepalive.capped", "keepalive.capped"]
    assert not world.model("code")


def test_one_that_comes_back_soon_may_stay_twice_as_long_each_time_up_to_ollamas_own_default() -> None:
    world, stayed = shorten(pinned()), []
    for _ in range(7):
        took = gone_after(world, "chat")
        assert took is not None
        stayed.append(round(took))
        live(world, 10)
        world.load("chat", 400 * MIB, loaded=False).expires_at = world.now + FOR_EVER_SECONDS
        live(world, 2)
    assert stayed == pytest.approx([30, 60, 120, 240, 300, 300, 300], abs=4)


def test_the_ladder_takes_the_fewest_and_the_governor_the_rest_when_their_time_is_over() -> None:
    world = pinned()
    world.load("big", 3 * GIB).expires_at = world.now + FOR_EVER_SECONDS
    world.play(10)
    world.hog_rate, world.hog_target = 500 * MIB, world.capacity - world.used - SOFT_BYTES + 300 * MIB
    world.play(50)
    assert [(rung, names) for rung, names in world.acted()] == [
        (Rung.UNLOAD_IDLE, ("big",)), (Rung.KEEP_ALIVE, ("chat",)), (Rung.KEEP_ALIVE, ("code",)),
    ]  # fmt: skip
    assert world.state.soft_cap == 2  # as relief left it: letting go says nothing of how many fit
