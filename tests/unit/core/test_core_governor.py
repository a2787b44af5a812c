"""The keep_alive governor: when an idle model's time is over, whose it never is, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import Phase, given, seed, settings

from ollama_guard.core import governor
from ollama_guard.core.decide import decide
from ollama_guard.core.events import Event
from ollama_guard.core.model import Activity, Decision, Level, Mode, Preference, Request, Rung, Snapshot
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, GovernorPolicy, ModelRule, OllamaPolicy, Policy, Protect
from ollama_guard.core.runners import census
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable, State
from ollama_guard.core.status import view
from ollama_guard.testing.scenario import World, blob_of
from unit.core.strategies import NAMES, Step, Tale, enforcing, happen, tales

FOR_EVER_SECONDS = 292 * 365 * 86400.0
SOFT_BYTES = int(0.2 * 16 * GIB)


def pinned(capacity: int = 16 * GIB, policy: Policy | None = None) -> World:
    """A machine on which two clients keep their models for ever; both have had nothing to do for a minute."""
    world = World(capacity=capacity, other=1 * GIB, policy=policy or Policy())
    for name in ("chat", "code"):
        world.load(name, 400 * MIB).expires_at = world.now + FOR_EVER_SECONDS
    world.play(60)
    return world


def shorten(world: World, level: Level = Level.SOFT) -> World:
    """Memory is at a level from now on, though there is nothing in it that the ladder would have to do.

    So it is once relief has brought enough: a level is held for a transition, and here for as long as wanted.
    """
    held = replace(world.state.domains["host"], level=level, since_at=world.now)
    world.state = replace(world.state, level=level, domains={"host": held})
    return world.with_policy(transition_seconds=3600.0)


def live(world: World, seconds: float) -> tuple[list[Event], list[Decision]]:
    """Let time go by, a tick each quarter of a second, and tell what was logged and decided."""
    told: list[Event] = []
    made: list[Decision] = []
    until = world.now + seconds
    while world.now < until:
        before = world.state
        world.settle()
        decision, seen = world.tick(), world.snapshot()
        told += events(before, world.state, decision, seen)
        made.append(decision)
        world.pass_time(0.25)
    return told, made


def gone_after(world: World, name: str, seconds: float = 400.0) -> float | None:
    """Seconds until a model is gone, None if it stays."""
    began = world.now
    while world.now - began < seconds:
        live(world, 0.25)
        if world.model(name) is None:
            return world.now - began
    return None


def test_while_all_is_calm_a_pinned_model_stays_and_nothing_is_remembered() -> None:
    world = pinned()
    told, made = live(world, 3600)
    assert world.model("chat")
    assert not any(decision.actions for decision in made)
    assert not any(event.name == "keepalive.capped" for event in told)
    assert world.state.governed == {}


@pytest.mark.parametrize(
    ("level", "seconds"), [(Level.SOFT, 30.0), (Level.HARD, 10.0), (Level.CRITICAL, 3.0)]
)
def test_an_idle_model_is_let_go_sooner_as_the_level_rises(level: Level, seconds: float) -> None:
    """Its time counts from when memory became short: the ladder has its turn first, and takes the fewest."""
    took = gone_after(shorten(pinned(), level), "chat")
    assert took == pytest.approx(seconds, abs=1.0)


def test_a_level_that_rises_on_counts_from_when_memory_became_short() -> None:
    world = shorten(pinned())
    live(world, 20)
    shorten(world, Level.HARD)
    assert gone_after(world, "chat") == pytest.approx(0.0, abs=1.0)


def test_the_time_counts_from_the_last_answer() -> None:
    world = shorten(pinned())
    chat = world.model("chat")
    assert chat is not None
    live(world, 25)
    chat.busy = True
    live(world, 10)
    chat.busy = False
    assert gone_after(world, "chat") == pytest.approx(30.0 + 2.0, abs=2.0)


def test_a_busy_model_is_let_be_for_as_long_as_it_answers() -> None:
    world = shorten(pinned())
    chat = world.model("chat")
    assert chat is not None
    chat.busy = True
    live(world, 600)
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


def test_one_that_ollama_ends_sooner_is_left_to_it() -> None:
    world = pinned()
    chat = world.model("chat")
    assert chat is not None
    chat.expires_at = world.now + 20
    _, made = live(shorten(world), 60)
    assert {action.names for decision in made for action in decision.actions} == {("code",)}


def test_one_whose_end_was_never_listed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = pinned()
    seen = world.snapshot

    def unlisted() -> Snapshot:
        snapshot = seen()
        return replace(snapshot, api=replace(snapshot.api, loaded=()))

    world.state = State()
    monkeypatch.setattr(world, "snapshot", unlisted)
    live(world, 5)
    _, made = live(shorten(world), 60)
    assert not any(decision.actions for decision in made)


@pytest.mark.parametrize("protect", Protect)
def test_what_the_owner_omits_stays_for_ever_at_every_level(protect: Protect) -> None:
    policy = Policy(models={"chat": ModelRule(Preference.OMIT, protect)})
    for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
        told, _ = live(shorten(pinned(policy=policy), level), 120)
        assert [event.fields["names"] for event in told if event.name == "keepalive.capped"] == ["code"]


def test_one_that_goes_after_the_others_has_twice_as_long() -> None:
    policy = Policy(models={"chat": ModelRule(Preference.AVOID)})
    assert gone_after(shorten(pinned(policy=policy)), "chat") == pytest.approx(60.0, abs=1.0)


def test_the_owner_sets_the_time_or_switches_it_off() -> None:
    longer = Policy(governor=GovernorPolicy(max_keep_alive_seconds=90.0))
    assert gone_after(shorten(pinned(policy=longer)), "chat") == pytest.approx(90.0, abs=1.0)
    off = Policy(governor=GovernorPolicy(enabled=False))
    world = shorten(pinned(policy=off))
    assert gone_after(world, "chat") is None
    assert world.state.governed == {}


@pytest.mark.parametrize("version", ["0.3.10", "0.1.48", None])
def test_an_ollama_that_loads_in_order_to_unload_is_never_asked(version: str | None) -> None:
    world = shorten(pinned())
    seen = world.snapshot()
    for quarters in range(200):
        at = seen.now + quarters / 4
        api = replace(seen.api, version=version, answered_at=at, loaded_at=seen.now)
        world.state, decision = decide(world.policy, world.state, replace(seen, now=at, api=api))
        assert not decision.actions
    assert {record.told_at for record in world.state.governed.values()} == {None}


@pytest.mark.parametrize("version", ["0.3.11", "0.5.4", "0.33.0-rc2", "0.0.0", "v0.30.1", "of my own"])
def test_any_other_is(version: str) -> None:
    assert not governor._loads_to_unload(version)


def test_it_says_who_why_and_for_how_long() -> None:
    told, made = live(shorten(pinned()), 32)
    capped = [event for event in told if event.name == "keepalive.capped"]
    assert capped[0].message == (
        "chat would stay for ever without a request: while host is at soft it stays for 30 s"
    )
    assert capped[0].fields == {
        "blob": blob_of("chat"), "names": "chat", "pid": 101, "domain": "host", "level": "soft",
        "keep_alive_seconds": None, "max_keep_alive_seconds": 30.0,
    }  # fmt: skip
    (decision,) = [decision for decision in made if decision.actions]
    assert (decision.rung, decision.disruptive, decision.needs_second_look) == (Rung.KEEP_ALIVE, False, True)
    assert decision.reason == (
        "host is at soft, 14.2 GiB available: unload what has had nothing to do for too long: "
        "chat (idle 92 s, at most 30 s now, else kept for ever, 400 MiB), "
        "code (idle 92 s, at most 30 s now, else kept for ever, 400 MiB)"
    ).replace("92 s", _idle_of(decision))
    assert [event.message for event in told if event.name == "model.unloaded"] == [
        "chat unloaded, 400 MiB came back", "code unloaded, 400 MiB came back",
    ]  # fmt: skip


def _idle_of(decision: Decision) -> str:
    return decision.reason.partition("(idle ")[2].partition(",")[0]


def test_the_status_says_when_it_goes() -> None:
    world = pinned()
    calm = view(world.policy, world.state, world.snapshot(), {})["models"][0]["expires_at"]
    live(shorten(world), 10)
    seen = world.snapshot()
    short = view(world.policy, world.state, seen, {})["models"][0]["expires_at"]
    assert calm - seen.wall > 20 * 365 * 86400
    assert short - seen.wall == pytest.approx(20, abs=1)
    watching = replace(world.policy, ollama=OllamaPolicy(mode=Mode.OBSERVE))
    assert view(watching, world.state, seen, {})["models"][0]["expires_at"] == pytest.approx(calm, abs=1)


@pytest.mark.parametrize("how", ["observe", "paused"])
def test_who_only_watches_is_told_what_would_have_been_done_once_a_minute(how: str) -> None:
    world = pinned()
    if how == "observe":
        world.with_policy(ollama=OllamaPolicy(mode=Mode.OBSERVE))
    else:
        world.requests = (Request(1, "pause", seconds=3600.0),)
        live(world, 1)
    told, made = live(shorten(world), 180)
    assert world.model("chat")
    assert not world.state.in_flight
    assert any(decision.would for decision in made)
    assert not any(event.name == "keepalive.capped" for event in told)
    said = [event for event in told if event.name == "decision.made"]
    assert 1 <= len(said) <= 4
    assert all(event.message.startswith("would have: host is at soft") for event in said)


def test_after_a_stall_its_time_begins_anew() -> None:
    """What was done while the guard or the machine slept is not known."""
    world = shorten(pinned())
    live(world, 29)
    world.now += 3600
    assert gone_after(world, "chat") == pytest.approx(30.0, abs=2.0)


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


def test_one_that_comes_back_late_has_the_usual_time() -> None:
    world = shorten(pinned())
    assert gone_after(world, "chat") is not None
    live(world, governor.RETURN_SECONDS + 10)
    world.load("chat", 400 * MIB, loaded=False).expires_at = world.now + FOR_EVER_SECONDS
    assert gone_after(world, "chat") == pytest.approx(30.0, abs=4.0)


def test_what_was_remembered_is_forgotten() -> None:
    world = shorten(pinned())
    assert gone_after(world, "chat") is not None
    assert blob_of("chat") in world.state.governed
    live(world, governor.TOLD_AGAIN_SECONDS + 5)
    assert blob_of("chat") not in world.state.governed


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


# ---- whatever happens


class Pinned:
    """A tale in which every client keeps its model for ever, under a governor in a hurry."""

    def __init__(self, tale: Tale) -> None:
        hurry = GovernorPolicy(max_keep_alive_seconds=1.0)
        self.tale = replace(tale, policy=replace(tale.policy, governor=hurry))

    def told(self, world: World) -> Iterator[tuple[State, State, Snapshot, Decision]]:
        """Each tick of the tale, and of a while after it in which nobody asks for anything."""
        quiet = (*(Step("idle", name, ticks=1) for name in NAMES), Step("answers", ticks=20, dt=1.0))
        for step in (*self.tale.steps, *quiet):
            if step.what in ("by_hand", "release"):
                continue
            happen(world, step)
            for _ in range(step.ticks):
                for model in world.models:
                    model.expires_at = model.expires_at or 1e10
                world.settle()
                world.react()
                before, snapshot = world.state, world.snapshot()
                decision = world.tick()
                yield before, world.state, snapshot, decision
                world.pass_time(1.0 if step.dt is None else step.dt)


def lets_go(decision: Decision) -> bool:
    return decision.rung is Rung.KEEP_ALIVE


def test_the_tales_come_to_letting_go() -> None:
    """What holds at each moment below says nothing of what no tale comes to."""
    reached = 0

    @seed(1)
    @settings(max_examples=100, phases=[Phase.generate], database=None)
    @given(tales(enforcing))
    def count(tale: Tale) -> None:
        nonlocal reached
        story = Pinned(tale)
        reached += any(lets_go(decision) for *_, decision in story.told(story.tale.begin()))

    count()
    assert reached >= 5


@settings(max_examples=150)
@given(tales(enforcing))
def test_it_lets_go_only_of_idle_models_that_its_owner_lets_go_while_memory_is_short(tale: Tale) -> None:
    story = Pinned(tale)
    for before, after, snapshot, decision in story.told(story.tale.begin()):
        if not lets_go(decision):
            continue
        seen = replace(after, in_flight=before.in_flight)
        runners = {r.key: r for r in census(story.tale.policy, seen, snapshot)}
        scene = Scene(story.tale.policy, seen, snapshot, tuple(runners.values()))
        for action in decision.actions:
            assert action.key is not None
            runner = runners[action.key]
            assert runner.activity is Activity.IDLE
            assert runner.rule.preference is not Preference.OMIT
            assert runner.idle_seconds >= governor.bound_seconds(scene, runner) - 1e-6
            assert max(after.domains[name].level for name in runner.reading.domains) > Level.OK
        assert not snapshot.blind
        assert after.durable.playbook is None


@given(tales(enforcing))
def test_it_never_acts_nor_says_that_it_would_bound_anything_while_it_may_only_watch(tale: Tale) -> None:
    story = Pinned(tale)
    world = story.tale.begin()
    world.state = State(durable=Durable(pause_until_at=world.now + 1e6))
    for before, after, snapshot, decision in story.told(world):
        assert not after.in_flight
        told = events(before, after, decision, snapshot)
        assert not any(event.name == "keepalive.capped" for event in told)


@given(tales(enforcing))
def test_blind_it_lets_nobody_go(tale: Tale) -> None:
    story = Pinned(tale)
    for before, _, snapshot, _ in story.told(story.tale.begin()):
        _, decision = decide(story.tale.policy, before, replace(snapshot, blind=("whose pid 7 is",)))
        assert not lets_go(decision)


@given(tales(enforcing))
def test_switched_off_it_changes_no_decision_and_remembers_nothing(tale: Tale) -> None:
    """So a trace of a guard that had no governor yet replays as it was."""
    off = replace(tale.policy, governor=GovernorPolicy(enabled=False))
    story = Pinned(tale)
    story.tale = replace(tale, policy=off)
    for _, after, _, decision in story.told(story.tale.begin()):
        assert not lets_go(decision)
        assert after.governed == {}
