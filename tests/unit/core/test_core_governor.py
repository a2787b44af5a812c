"""The keep_alive governor: when an idle model's time is over, whose it never is, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core import governor
from ollama_guard.core.decide import decide
from ollama_guard.core.model import Decision, Level, Mode, Preference, Request, Rung
from ollama_guard.core.policy import MIB, GovernorPolicy, ModelRule, OllamaPolicy, Policy, Protect
from ollama_guard.core.state import State
from ollama_guard.core.status import view
from ollama_guard.testing.scenario import blob_of
from unit.core.pinned import FOR_EVER_SECONDS, gone_after, live, pinned, shorten


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


def test_a_client_that_wants_it_for_a_shorter_time_has_asked_for_it_all_the_same() -> None:
    """By an empty prompt, which takes no CPU time: only the end that Ollama lists tells of it."""
    world = shorten(pinned())
    chat = world.model("chat")
    assert chat is not None
    live(world, 25)
    chat.expires_at = world.now + 3600
    assert gone_after(world, "chat") == pytest.approx(30.0, abs=2.0)


@pytest.mark.parametrize("at_work", ["here", "there", "nowhere"])
def test_a_model_that_another_server_has_loaded_too_is_let_be(at_work: str) -> None:
    """The unload would go to the one behind the url, by a name that both know."""
    world = shorten(pinned())
    chat = world.model("chat")
    assert chat is not None
    chat.busy = at_work == "here"
    gone: set[tuple[str, ...]] = set()
    for halves in range(180):
        world.settle()
        seen = world.snapshot()
        ours = next(reading for reading in seen.runners if reading.blob == blob_of("chat"))
        cpu = halves / 2 if at_work == "there" else 0.0
        theirs = replace(ours, pid=7001, start_ticks=1, server_pid=7000, cpu_seconds=cpu)
        servers = (*seen.servers, replace(seen.servers[0], pid=7000))
        both = replace(seen, servers=servers, runners=(*seen.runners, theirs))
        world.state, decision = decide(world.policy, world.state, both)
        gone |= {action.names for action in decision.actions}
        world.pass_time(0.5)
    assert gone == {("code",)}


def test_one_that_ollama_ends_sooner_is_left_to_it() -> None:
    world = pinned()
    chat = world.model("chat")
    assert chat is not None
    chat.expires_at = world.now + 20
    _, made = live(shorten(world), 60)
    assert {action.names for decision in made for action in decision.actions} == {("code",)}


def test_one_whose_end_was_never_listed_is_left_alone() -> None:
    world = pinned()
    state, seen = State(), world.snapshot()
    for quarters in range(260):
        at = seen.now + quarters / 4
        api = replace(seen.api, loaded=(), answered_at=at, loaded_at=at)
        state, decision = decide(world.policy, state, replace(seen, now=at, api=api))
        assert not decision.actions
        if quarters == 20:
            world.state = state
            state = shorten(world).state
    assert state.governed


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
