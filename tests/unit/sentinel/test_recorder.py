"""What the sentinel records of its mind: every input, in order, and a header wherever some are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ollama_guard.core.model import Outcome, OutcomeKind
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import GIB, MIB, CapPolicy, NotifyPolicy, Policy
from ollama_guard.core.replay import Comparison
from ollama_guard.core.state import Durable
from ollama_guard.sentinel import recorder
from ollama_guard.sentinel.mind import Mind, Told
from ollama_guard.wire import Recorded, TraceWanted
from unit.sentinel.test_mind import ScriptedSenses, runner, view

WANTED = TraceWanted(wanted=True)


class Hands:
    """Takes what is sent, or refuses it."""

    def __init__(self) -> None:
        self.messages: list[Recorded] = []
        self.full = False

    def take(self, message: Recorded) -> bool:
        """As `Channel.send`."""
        if not self.full:
            self.messages.append(message)
        return not self.full

    def lines(self) -> list[bytes]:
        """Everything so far, as a file would have it."""
        return "".join(message.lines for message in self.messages).encode().splitlines(keepends=True)

    def records(self) -> list[dict[str, Any]]:
        """The same, read."""
        return [json.loads(line) for line in self.lines()]

    def replayed(self) -> Comparison:
        """The same, decided again."""
        seen = Comparison()
        list(seen.read("trace", self.lines()))
        return seen


def recorded(*views: Any) -> tuple[Mind, Hands]:
    """A mind that is shown these views, and is recorded."""
    mind, hands = Mind(Policy(), Durable(), ScriptedSenses(*views)), Hands()
    mind.recorder.wanted(WANTED, hands.take)
    return mind, hands


CALM = view(3 * GIB, runner(7))
SHORT = view(50 * MIB, runner(7))


def think(mind: Mind, times: int = 1) -> None:
    for _ in range(times):
        mind.think(Told(), ())
    mind.recorder.flush()


def test_nothing_is_recorded_until_somebody_wants_it() -> None:
    mind, hands = Mind(Policy(), Durable(), ScriptedSenses(CALM)), Hands()
    think(mind)
    assert mind.recorder._lines == []
    mind.recorder.wanted(WANTED, hands.take)
    think(mind)
    assert ["trace" in record for record in hands.records()] == [True, False]
    assert hands.messages[0].starts
    assert hands.replayed().first is None


@pytest.mark.parametrize(
    "views",
    [
        (CALM,),
        (SHORT,),
        (SHORT, CALM),
        (SHORT, view(50 * MIB, runner(8))),
        tuple(view(50 * MIB, runner(pid)) for pid in (7, 8, 9)),
    ],
    ids=["one look", "two that agree", "changed its mind", "a third look", "looks that never agree"],
)
def test_every_kind_of_look_replays_the_same(views: tuple[Any, ...]) -> None:
    mind, hands = recorded(*views)
    think(mind)
    if mind.state.in_flight:
        mind.absorb(Outcome(mind.state.in_flight[0].id, OutcomeKind.DONE, 500.5, GIB))
    mind.adopt(Policy(cap=CapPolicy(soft_max=1)))
    think(mind, 3)
    seen = hands.replayed()
    assert seen.first is None
    assert seen.decisions == mind._senses.looks  # type: ignore[attr-defined]
    assert seen._replay._state == mind.state


def test_no_trace_holds_the_webhook() -> None:
    """A trace is shown to others, and a webhook's URL is often its key."""
    policy = Policy(notify=NotifyPolicy("https://x/s3cret"))
    mind, hands = Mind(policy, Durable(), ScriptedSenses(CALM)), Hands()
    mind.recorder.wanted(WANTED, hands.take)
    think(mind)
    mind.adopt(replace(policy, cap=CapPolicy(soft_max=1)))
    think(mind)
    assert len(hands.records()) == 4
    assert b"s3cret" not in b"".join(hands.lines())


def test_a_trace_may_begin_between_any_two_records() -> None:
    """Also after an action was begun, and right before its outcome."""
    for start in ("before", "in flight", "after"):
        mind, hands = Mind(Policy(), Durable(), ScriptedSenses(SHORT)), Hands()
        if start == "before":
            mind.recorder.wanted(WANTED, hands.take)
        think(mind)
        if start == "in flight":
            mind.recorder.wanted(WANTED, hands.take)
        mind.absorb(Outcome(mind.state.in_flight[0].id, OutcomeKind.DONE, 500.5, GIB))
        if start == "after":
            mind.recorder.wanted(WANTED, hands.take)
        think(mind, 2)
        seen = hands.replayed()
        assert seen.first is None
        assert seen._replay._state == mind.state


def test_calm_ticks_are_handed_over_together_and_a_level_at_once() -> None:
    """Twenty ticks in a row take far less than the time for which calm ones are gathered."""
    mind, hands = recorded(*[CALM] * 20, SHORT)
    for _ in range(20):
        mind.think(Told(), ())
    calm = len(hands.messages)
    assert calm <= 2
    mind.think(Told(), ())
    assert len(hands.messages) > calm
    assert any('"critical"' in message.lines for message in hands.messages[calm:])
    assert sum(message.count for message in hands.messages) == len(hands.lines())


def at(clock: dict[str, float]) -> Callable[[], float]:
    return lambda: clock["now"]


def test_what_can_not_be_handed_over_is_counted_and_a_header_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"now": 500.0}
    monkeypatch.setattr(recorder.clock, "boottime", at(now))
    mind, hands = recorded(CALM)
    think(mind)
    hands.full = True
    think(mind, 4)
    hands.full = False
    think(mind)
    assert len(hands.messages) == 1, "not at once: a header is dear"
    now["now"] = 0.0  # the tick's own clock has passed the pause by now
    mind.recorder._again_at = 0.0
    think(mind, 2)
    headers = [record for record in hands.records() if "trace" in record]
    assert [(header["why"], header["lost"]) for header in headers] == [("start", 0), ("gap", 5)]
    assert hands.replayed().first is None


def test_a_header_that_is_lost_loses_no_count() -> None:
    mind, hands = recorded(CALM)
    hands.full = True
    mind.recorder.wanted(TraceWanted(wanted=True, lost=40), hands.take)
    think(mind)
    hands.full = False
    mind.recorder._again_at = 0.0
    think(mind)
    assert [record["lost"] for record in hands.records() if "trace" in record] == [42]


def test_a_number_that_json_can_not_hold_costs_its_record_only() -> None:
    mind, hands = recorded(CALM, view(float("nan"), runner(7)), CALM)  # type: ignore[arg-type]
    think(mind, 2)
    mind.recorder._again_at = 0.0
    think(mind)
    assert [record.get("why") for record in hands.records()] == ["start", None, "gap", None]
    assert hands.records()[2]["lost"] == 1


def test_a_full_file_is_continued_and_a_loss_of_hands_is_a_gap() -> None:
    mind, hands = recorded(CALM)
    think(mind)
    mind.recorder.wanted(TraceWanted(wanted=True, continues=True), hands.take)
    think(mind)
    mind.recorder.wanted(TraceWanted(wanted=True, lost=9), hands.take)
    think(mind)
    headers = [record for record in hands.records() if "trace" in record]
    assert [(header["why"], header["lost"]) for header in headers] == [("start", 0), ("file", 0), ("gap", 9)]
    assert hands.replayed().first is None


def test_new_hands_get_a_new_trace_and_nothing_of_the_old_one() -> None:
    mind, hands = recorded(CALM)
    mind.think(Told(), ())
    mind.recorder.stop()
    think(mind)
    assert hands.messages == [] or all("trace" in message.lines for message in hands.messages)
    new = Hands()
    mind.recorder.wanted(WANTED, new.take)
    think(mind)
    assert new.records()[0]["why"] == "start"
    assert new.replayed().first is None


def test_hands_that_want_no_more_get_no_more() -> None:
    mind, hands = recorded(CALM)
    think(mind)
    mind.recorder.wanted(TraceWanted(wanted=False), hands.take)
    count = len(hands.messages)
    think(mind, 3)
    assert len(hands.messages) == count


def test_the_glances_of_a_rest_are_recorded_between_its_looks() -> None:
    """Not before the header: there is nothing yet that they could be between."""
    mind, hands = recorded(CALM)
    mind.recorder.glanced(499.0, Glance.of(CALM))
    think(mind)
    mind.recorder.glanced(500.9, Glance.of(CALM))
    think(mind)
    glances = [record["glance"] for record in hands.records() if "glance" in record]
    assert glances == [{"at": 500.9, "available_bytes": {"host": 3 * GIB}}]
    assert (hands.replayed().first, hands.replayed().decisions) == (None, 2)
