"""Events, codec, requests, conditions: what foreign text and broken data can and can't do."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.codec import CodecError, from_plain, to_plain
from ollama_guard.core.decide import decide
from ollama_guard.core.events import Event, Priority, as_journal, as_json, as_line, one_line
from ollama_guard.core.model import (
    ActionKind,
    ApiReading,
    CatalogueEntry,
    Condition,
    Level,
    LoadedModel,
    Preference,
    Request,
    Rung,
)
from ollama_guard.core.policy import MIB, ModelRule, Policy
from ollama_guard.core.runners import names_of
from ollama_guard.core.state import Condemned, Durable, State, Strike
from ollama_guard.core.units import seconds_text
from ollama_guard.testing.scenario import World

HOSTILE = [
    "a\nb", "\x1b[2Jcls", "\u2028line", "\u202egnp.exe", "\x00", "\r\n[x=1] fake", "\ud800", "\x85",
    "x" * 10_000_000,
]  # fmt: skip


# ---- events


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_text_stays_one_bounded_line_in_every_rendering(text: str) -> None:
    event = Event("model.unloaded", f"{text} unloaded", Priority.NOTICE, {"names": text, "freed_bytes": 3})
    for line in (as_line(event, 0.0), as_json(event, 0.0), *as_journal(event).values()):
        assert line.isprintable()
        assert len(line) < 10_000


def test_programs_get_every_field_and_people_the_sentence_alone() -> None:
    fields = {"names": 'a "b" c', "freed_bytes": 7, "seconds": 1.25, "holds": True, "blob": None}
    event = Event("model.unloaded", "gone", Priority.WARNING, fields)
    journal, line, body = as_journal(event), as_line(event, 0.0), json.loads(as_json(event, 0.0))
    assert {key: body[key] for key in fields} == fields
    assert journal["OLLAMA_GUARD_NAMES"] == 'a "b" c'
    assert journal["OLLAMA_GUARD_FREED_BYTES"] == "7"
    assert journal["OLLAMA_GUARD_SECONDS"] == "1.25"
    assert journal["OLLAMA_GUARD_HOLDS"] == "true"
    assert "OLLAMA_GUARD_BLOB" not in journal
    assert line == "00:00:00Z !model.unloaded     gone"
    assert (journal["PRIORITY"], body["priority"]) == ("4", 4)


def test_a_field_can_not_pretend_to_be_another_one() -> None:
    event = Event("model.unloaded", "gone", fields={"names": "a]priority=0"})
    assert as_journal(event)["OLLAMA_GUARD_NAMES"] == "a]priority=0"
    assert json.loads(as_json(event, 0.0))["priority"] == Priority.INFO


def test_a_line_tells_how_often_it_was_left_out() -> None:
    event = Event("decision.made", "unload a", fields={"rung": "unload_idle", "repeated": 12})
    assert as_line(event, 0.0) == "00:00:00Z  decision.made      unload a  (12 more like this left out)"


def test_an_hour_or_a_week_is_said_in_its_own_unit() -> None:
    """A pause's bound of 168.0 h is a riddle."""
    said = [seconds_text(seconds) for seconds in (0.4, 12, 300, 7200, 7 * 86400)]
    assert said == ["0.4 s", "12 s", "5 min", "2.0 h", "7.0 days"]


# ---- names


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ((), ("tiny:latest", "tiny-alias:latest")),
        (("tiny-alias:latest",), ("tiny-alias:latest", "tiny:latest")),
        (("else:latest",), ("tiny:latest", "tiny-alias:latest")),
    ],
)
def test_the_name_that_a_model_was_loaded_by_comes_first_else_the_shortest(
    listed: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    snapshot = replace(
        World().snapshot(),
        catalogue=(CatalogueEntry("sha256:ab", ("tiny-alias:latest", "tiny:latest"), 1),),
        api=ApiReading(
            loaded=tuple(
                LoadedModel(name, "sha256:ab" if name.startswith("tiny") else "sha256:cd", 1, 0, None)
                for name in listed
            )
        ),
    )
    assert names_of("sha256:ab", snapshot) == expected


@pytest.mark.parametrize("wall", [float("nan"), float("inf"), -1e300, 1e300, -1.0])
def test_a_time_that_is_no_time_does_not_lose_the_line(wall: float) -> None:
    event = Event("guard.started", "here", fields={"seconds": wall})
    assert "here" in as_line(event, wall)
    assert json.loads(as_json(event, wall), parse_constant=pytest.fail)["message"] == "here"


def test_one_line_says_that_it_was_cut() -> None:
    assert one_line("abc", limit=2) == "ab…"


# ---- codec

DURABLE = Durable(
    pause_until_at=5.0,
    condemned=(Condemned("sha256:a", ("a", "b"), 1.0, 2.0, 600.0, 7, 2, 1.5, None),),
    strikes=(Strike("sha256:a", 1.0, 7),),
    fruitless_kills=(1.0, 2.0),
    next_action_id=9,
)


def test_the_durable_state_survives_json() -> None:
    assert from_plain(Durable, json.loads(json.dumps(to_plain(DURABLE)))) == DURABLE


def test_the_policy_survives_json() -> None:
    policy = Policy(models={"a": ModelRule(Preference.OMIT)})
    assert from_plain(Policy, json.loads(json.dumps(to_plain(policy)))) == policy


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"pause_until_at": "soon"}, "pause_until_at"),
        ({"pause_until_at": float("nan")}, "pause_until_at"),
        ({"pause_until_at": 10**400}, "pause_until_at"),
        ({"next_action_id": True}, "next_action_id"),
        ({"next_action_id": 1.5}, "next_action_id"),
        ({"fruitless_kills": [1.0, None]}, "fruitless_kills[1]"),
        ({"fruitless_kills": "12"}, "fruitless_kills"),
        ({"strikes": [{"blob": "x"}]}, "strikes[0].at"),
        ({"strikes": [{"blob": "x", "at": 1, "by": 2}]}, "strikes[0].by"),
        ({"condemned": [[]]}, "condemned[0]"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_every_error_names_its_place(change: dict[str, object], path: str) -> None:
    with pytest.raises(CodecError) as caught:
        from_plain(Durable, {**to_plain(DURABLE), **change})
    assert caught.value.path == path
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("data", [None, 1, "x", [], [[]]])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(CodecError):
        from_plain(Durable, data)


def test_hostile_nesting_is_refused_not_followed() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CodecError):
        from_plain(Durable, {"strikes": deep})
    with pytest.raises(CodecError):
        from_plain(Durable, {"next_action_id": deep})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*to_plain(DURABLE), "x"]), json_values, max_size=4))
def test_plain_data_of_any_shape_is_built_or_refused_with_a_place(data: dict[str, object]) -> None:
    with contextlib.suppress(CodecError):
        assert isinstance(from_plain(Durable, data), Durable)


@pytest.mark.parametrize("value", [10**5000, "x" * 10_000_000, [1] * 10**6], ids=["int", "text", "list"])
def test_an_error_about_something_huge_is_short(value: object) -> None:
    with pytest.raises(CodecError) as caught:
        from_plain(Durable, {"pause_until_at": value})
    assert len(str(caught.value)) < 200


# ---- requests


def ask(world: World, *requests: Request) -> list[tuple[int, bool, str]]:
    """The immediate replies to what people ask for in one tick."""
    world.requests = requests
    return [(reply.request_id, reply.ok, reply.text) for reply in world.tick().replies]


@pytest.mark.parametrize("seconds", [None, 0.0, -1.0, float("nan"), float("inf"), 8 * 86400.0])
def test_a_pause_without_an_end_is_refused(seconds: float | None) -> None:
    world = World()
    ((_, ok, text),) = ask(world, Request(1, "pause", seconds=seconds))
    assert not ok
    assert "at most" in text
    assert world.state.durable.pause_until_at is None


def test_pause_and_resume() -> None:
    world = World()
    assert ask(world, Request(1, "pause", seconds=60.0))[0][1]
    assert ask(world, Request(2, "resume")) == [(2, True, "resumed")]
    assert ask(world, Request(3, "resume")) == [(3, True, "was not paused")]


def test_an_unknown_wish_is_refused_in_one_line() -> None:
    ((_, ok, text),) = ask(World(), Request(1, "format\nthe disk"))
    assert not ok
    assert text.isprintable()


def test_each_of_two_wishes_in_one_tick_is_answered() -> None:
    world = World()
    world.load("a", 300 * MIB)
    world.play(5)
    world.requests = (Request(1, "unload", "a"), Request(2, "unload", "a"))
    decision = world.tick()
    assert [action.request_id for action in decision.actions] == [1]
    assert [(reply.request_id, reply.ok) for reply in decision.replies] == [(2, False)]


def test_unloading_what_is_not_loaded_or_is_leaving_is_no_failure() -> None:
    world = World()
    world.load("a", 300 * MIB)
    world.play(5)
    world.requests = (Request(1, "unload", "a"),)
    world.tick()
    ((_, ok, text),) = ask(world, Request(2, "unload", "a"))
    assert (ok, text) == (True, "a is already being unloaded")
    world.play(2)
    ((_, ok, text),) = ask(world, Request(3, "unload", "a"))
    assert (ok, text) == (True, "a is not loaded")


def test_an_unload_by_hand_while_the_api_is_silent_is_refused_with_the_reason() -> None:
    world = World()
    world.load("a", 300 * MIB)
    world.play(5)
    world.api_silent_since = world.now - 60
    ((_, ok, text),) = ask(world, Request(1, "unload", "a"))
    assert not ok
    assert "does not answer" in text


def test_an_unload_by_hand_is_done_even_while_paused() -> None:
    world = World()
    world.load("a", 300 * MIB)
    world.play(5)
    world.requests = (Request(1, "pause", seconds=60.0), Request(2, "unload", "a"))
    decision = world.tick()
    assert not decision.would
    assert [action.kind for action in decision.actions] == [ActionKind.UNLOAD]


# ---- conditions


def test_unresponsive_says_the_age_of_the_last_answer_and_is_held_for_a_transition() -> None:
    world = World()
    world.play(2)
    world.api_silent_since = world.now
    world.play(29)
    assert not world.state.conditions
    world.play(16)
    (held,) = world.state.conditions
    assert held.condition is Condition.OLLAMA_UNRESPONSIVE
    assert "last answer 4" in held.reason
    world.api_silent_since = None
    world.play(59)
    assert world.state.conditions
    world.play(2)
    assert not world.state.conditions


def test_blind_says_what_can_not_be_read() -> None:
    world = World()
    snapshot = world.snapshot()
    host = replace(snapshot.domains[0], available_bytes=None, reason="meminfo: Permission denied")
    state, decision = decide(Policy(), State(), replace(snapshot, domains=(host,)))
    assert decision.rung is Rung.HOLD
    assert "Permission denied" in decision.reason
    assert [held.condition for held in state.conditions] == [Condition.BLIND]


@pytest.mark.parametrize(
    ("capacity", "available"), [(4096, 8192), (4096, -1), (-4096, 1), (4096, 2**64 - 256 * 1024), (0, 0)]
)
def test_absurd_memory_is_blindness_not_a_number(capacity: int, available: int) -> None:
    snapshot = World().snapshot()
    host = replace(snapshot.domains[0], capacity_bytes=capacity, available_bytes=available)
    state, decision = decide(Policy(), State(), replace(snapshot, domains=(host,)))
    assert decision.rung is Rung.HOLD
    assert state.level is Level.OK
