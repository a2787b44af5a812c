"""The user's ladder while memory comes and goes: down at once, up after quiet, and never without reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from ollama_guard.core.allowed import top
from ollama_guard.core.events import Event
from ollama_guard.core.model import ActionKind, Level, Mode, Request
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, OllamaPolicy, Policy
from ollama_guard.core.recovery import Playbook, Position, Step
from ollama_guard.core.tiers import Tier
from ollama_guard.testing.scenario import World

LADDER = (
    Tier("light", "smollm:135m", memory_bytes=200 * MIB),
    Tier("default", "smollm:360m", memory_bytes=400 * MIB),
    Tier("reasoning", "tinyllama:1.1b", memory_bytes=800 * MIB),
    Tier("fallback", "qwen2.5:3b", memory_bytes=2500 * MIB),
)
QUIET = Policy().transition_seconds


@dataclass
class Story:
    """A world with a ladder; ``positions`` are (at, largest allowed) each time that it changed."""

    world: World
    positions: list[tuple[float, str | None]] = field(default_factory=list)

    @property
    def position(self) -> str | None:
        """The largest tier allowed."""
        held = top(self.world.state.tiers)
        return held.name if held is not None else None

    def allowed(self) -> list[str]:
        """Every tier allowed, small to large."""
        return [tier.name for tier in self.world.state.tiers if tier.allowed]

    def reason(self, name: str) -> str:
        """Why a tier is allowed, or is not."""
        return next(tier.reason for tier in self.world.state.tiers if tier.name == name)

    def play(self, seconds: float) -> None:
        """As `World.play`, noting each change of the position."""

        def noted(world: World) -> bool:
            if world.state.tiers and (not self.positions or self.positions[-1][1] != self.position):
                self.positions.append((world.now, self.position))
            return False

        self.world.play(seconds, until=noted)
        noted(self.world)


def story(capacity: int = 4 * GIB, other: int = 700 * MIB, policy: Policy | None = None) -> Story:
    """A host with the whole ladder installed and nothing loaded, a few seconds after the guard's start."""
    world = World(capacity=capacity, other=other, policy=policy or Policy(tiers=LADDER))
    for tier in LADDER:
        world.install(tier.model, (tier.memory_bytes or 0) * 3 // 4)
    told = Story(world)
    told.play(5)
    return told


def test_on_a_calm_host_the_whole_ladder_is_allowed() -> None:
    told = story()
    assert told.allowed() == ["light", "default", "reasoning", "fallback"]
    assert told.reason("fallback").startswith("it needs 2.4 GiB (as [[tiers]] expects)")


def test_the_position_falls_with_the_level_and_comes_back_after_quiet() -> None:
    """A hog beside the largest model, at work: stepped down in the tick of the level, back after quiet."""
    told = story()
    world = told.world
    world.load("qwen2.5:3b", 2500 * MIB, busy=True)
    told.play(5)
    assert told.position == "fallback"
    world.hog_rate, world.hog_target = 200 * MIB, 300 * MIB
    told.play(20)
    level_at = next(d.at for d in world.decisions if d.level > Level.OK)
    fell_at = next(at for at, name in told.positions if name != "fallback")
    assert fell_at - level_at < 1.0
    assert told.position == "reasoning"
    assert "host is at soft, and it holds 2.4 GiB" in told.reason("fallback")
    world.models.clear()
    world.hog_taken = world.hog_target = 0
    gone_at = world.now
    told.play(QUIET - 3)
    assert told.position == "reasoning"
    assert "could be used again" in told.reason("fallback")
    told.play(8)
    assert told.position == "fallback"
    assert told.positions[-1][0] - gone_at >= QUIET - 1


def test_it_steps_down_rung_by_rung_as_a_hog_grows() -> None:
    told = story()
    world = told.world
    world.hog_rate, world.hog_target = 20 * MIB, 3200 * MIB
    told.play(200)
    assert [name for _, name in told.positions] == ["fallback", "reasoning", "default", "light", None]
    world.hog_taken = world.hog_target = 0
    told.play(QUIET - 5)
    assert told.position is None
    told.play(QUIET)
    assert told.allowed() == ["light", "default", "reasoning", "fallback"]


def test_memory_that_comes_and_goes_does_not_make_it_flap() -> None:
    """A job that needs the memory for ten seconds of every twenty takes the rung away for good."""
    told = story()
    world = told.world
    for _ in range(15):
        world.hog_taken = world.hog_target = 1000 * MIB
        told.play(10)
        world.hog_taken = world.hog_target = 0
        told.play(10)
    assert [name for _, name in told.positions] == ["fallback", "reasoning"]


def test_what_is_loaded_already_needs_no_more_memory() -> None:
    told = story(other=1500 * MIB)
    assert told.position == "reasoning"
    told.world.load("qwen2.5:3b", 1700 * MIB)
    told.play(QUIET + 5)
    assert told.position == "fallback"
    assert told.reason("fallback").startswith("it is loaded")


def test_an_idle_model_makes_room_as_the_guard_would_have_it_make() -> None:
    told = story()
    told.world.load("something-else", 1500 * MIB)
    told.play(5)
    assert told.position == "fallback"
    assert "something-else (idle, 1.5 GiB) would be unloaded to make room" in told.reason("fallback")


@pytest.mark.parametrize("paused", [True, False])
def test_nobody_is_thought_to_make_room_while_the_guard_only_looks_on(paused: bool) -> None:  # noqa: FBT001
    mode = Mode.ENFORCE if paused else Mode.OBSERVE
    told = story(policy=Policy(tiers=LADDER, ollama=OllamaPolicy(mode=mode)))
    if paused:
        told.world.requests = (Request(1, "pause", seconds=600.0),)
    told.world.load("something-else", 1500 * MIB)
    told.play(10)
    assert told.position == "reasoning"
    word = "paused" if paused else "observe"
    assert told.reason("fallback").endswith(f"and the guard only looks on (mode {word})")


def test_the_smallest_that_is_there_answers_while_all_else_is_too_much() -> None:
    """Below soft through and through: what is loaded still serves, since it needs nothing more."""
    told = story()
    told.world.load("smollm:360m", 400 * MIB, busy=True)
    told.play(5)
    told.world.hog_rate, told.world.hog_target = 100 * MIB, 2500 * MIB
    told.play(60)
    assert told.world.state.level is Level.SOFT
    assert told.allowed() == ["default"]
    assert told.reason("default").startswith("it is the smallest that can be had now; host is at soft")


def crowded() -> Story:
    """A host at soft with 100 MiB above hard, on which `default` is loaded and `light` would need 200."""
    told = story()
    world = told.world
    world.load("smollm:360m", 400 * MIB)
    told.play(5)
    world.hog_taken = world.hog_target = world.capacity - world.used - world.capacity // 10 - 100 * MIB
    told.play(3)
    return told


def ask(told: Story, seconds: float) -> None:
    """Somebody asks `default` for so long, which is loaded for it if it has to be."""
    model = told.world.model("smollm:360m")
    if model is None or model.gone_at is not None:
        model = told.world.load("smollm:360m", 400 * MIB, loaded=False)
        told.play(0.5)
    model.busy = True
    told.play(seconds)
    model.busy = False


def test_one_that_works_now_and_then_does_not_make_the_position_flap_below_it() -> None:
    """Each time that it rests the smaller one could be had, and each time that it works not at once."""
    told = crowded()
    for _ in range(24):
        ask(told, 1)
        told.play(4)
    assert told.world.state.level is Level.SOFT
    assert [name for _, name in told.positions] == ["fallback", "default", "light"]
    assert told.reason("light").startswith("it is the smallest that can be had now; host is at soft")


def test_one_that_works_on_takes_the_place_of_a_smaller_one_and_keeps_it_for_a_transition() -> None:
    """It is loaded and answers, and beside it the smaller one can't be had."""
    told = crowded()
    told.play(10)
    assert told.position == "light"
    began = told.world.now
    ask(told, 15)
    assert told.position == "default"
    rose_at, count = told.positions[-1][0], len(told.positions)
    assert 9 < rose_at - began < 12
    for _ in range(15):
        told.play(4)
        ask(told, 1)
    assert [name for _, name in told.positions[count:]] == ["light"]
    assert QUIET <= told.positions[count][0] - rose_at < QUIET + 6


def test_what_others_do_for_a_moment_refuses_nobody() -> None:
    """Somebody asks for what can never fit, again and again: each load is aborted, the ladder stays."""
    told = story(other=1500 * MIB)
    for _ in range(8):
        told.world.load("huge", 9 * GIB, loaded=False)
        told.play(4)
    assert any(action.kind is ActionKind.KILL for action, _ in told.world.outcomes)
    assert told.positions == [(told.positions[0][0], "reasoning")]


def test_what_others_do_for_longer_than_the_grace_refuses_what_it_leaves_no_room_for() -> None:
    told = story()
    told.world.load("something-else", 1500 * MIB, busy=True)
    told.play(8)
    assert told.position == "fallback"
    told.play(5)
    assert told.position == "reasoning"
    assert "also loaded: something-else (busy, 1.5 GiB)" in told.reason("fallback")


def test_a_model_that_is_not_installed_is_not_allowed_and_is_as_soon_as_it_is() -> None:
    told = story()
    del told.world.catalogue["qwen2.5:3b"]
    told.play(2)
    assert told.position == "reasoning"
    assert told.reason("fallback") == "qwen2.5:3b is not installed"
    told.world.install("qwen2.5:3b", 1900 * MIB)
    told.play(4)
    assert told.position == "fallback"


def test_a_condemned_model_is_not_allowed() -> None:
    told = story(other=1500 * MIB)
    assert told.position == "reasoning"
    for _ in range(2):
        told.world.load("qwen2.5:3b", 2500 * MIB, loaded=False)
        told.play(5)
    assert told.world.state.durable.condemned
    told.world.other = 400 * MIB
    told.play(30)
    assert told.position == "reasoning"
    assert told.reason("fallback").startswith("it is condemned")


def test_models_dont_load_pins_it_to_the_smallest_until_memory_is_back() -> None:
    told = story()
    told.world.requests = (Request(1, "playbook", "models_dont_load"),)
    told.play(5)
    assert told.allowed() == ["light"]
    assert told.reason("fallback").startswith(
        "models_dont_load is running: until memory is back only smollm:135m"
    )
    told.play(3 * QUIET)
    assert told.world.state.durable.playbook is None
    assert told.position == "fallback"


def test_the_playbook_keeps_to_a_tier_even_where_something_smaller_is_installed() -> None:
    told = story()
    told.world.install("all-tiny", 50 * MIB)
    told.world.requests = (Request(1, "playbook", "models_dont_load"),)
    told.play(5)
    assert told.allowed() == ["light"]


def test_a_silent_ollama_serves_no_tier_and_an_answering_one_serves_all_again() -> None:
    told = story()
    told.world.api_silent_since = told.world.now
    told.play(40)
    assert told.allowed() == []
    assert told.reason("light").startswith("Ollama has not answered for ")
    told.world.api_silent_since = None
    told.play(4)
    assert told.position == "fallback"


def test_while_ollama_is_being_recovered_no_tier_is_allowed() -> None:
    told = story()
    run = Position(Playbook.FREEZE, Step.START, told.world.now, "a test", runtime="x", stopping=True)
    told.world.state = replace(
        told.world.state, durable=replace(told.world.state.durable, playbook=run), tiers_judged_at=0.0
    )
    told.world.tick()
    assert told.reason("light").startswith("Ollama is being recovered")


def test_a_new_guard_waits_for_the_quiet_that_the_last_one_waited_for() -> None:
    told = story()
    told.world.hog_taken = told.world.hog_target = 1000 * MIB
    told.play(10)
    told.world.hog_taken = told.world.hog_target = 0
    told.play(5)
    assert told.world.state.durable.refused == ("fallback",)
    told.world.restart()
    told.play(QUIET - 5)
    assert told.position == "reasoning"
    told.play(10)
    assert told.position == "fallback"
    assert told.world.state.durable.refused == ()


def test_a_suspend_is_no_quiet() -> None:
    told = story()
    told.world.hog_taken = told.world.hog_target = 1000 * MIB
    told.play(10)
    told.world.hog_taken = told.world.hog_target = 0
    told.play(2)
    told.world.now += 3600.0
    told.play(2)
    assert told.position == "reasoning"


def test_the_change_of_the_position_is_told_once_with_why() -> None:
    told = story()
    world = told.world
    found: list[Event] = []
    world.hog_taken = world.hog_target = 1000 * MIB
    before = world.state
    world.pass_time(1)
    decision = world.tick()
    found += [e for e in events(before, world.state, decision, world.snapshot()) if e.name == "tier.changed"]
    (event,) = found
    assert event.message.startswith(
        "the largest tier that may be used is reasoning (tinyllama:1.1b) now (before: fallback): it needs 2.4"
    )
    assert event.fields == {"largest": "reasoning", "from": "fallback", "model": "tinyllama:1.1b"}


def test_a_ladder_costs_no_decision_and_a_guard_without_one_has_none() -> None:
    with_one, without = story(), story(policy=Policy())
    for told in (with_one, without):
        told.world.load("tinyllama:1.1b", 800 * MIB)
        told.play(5)
        told.world.hog_rate, told.world.hog_target = 150 * MIB, 2200 * MIB
        told.play(40)
    assert with_one.world.acted() == without.world.acted()
    assert any(action.kind is ActionKind.UNLOAD for action, _ in with_one.world.outcomes)
    assert without.world.state.tiers == ()
