"""Whoever asked gets one answer, when there is something to say."""

from __future__ import annotations

from ollama_guard.core.model import Action, ActionKind, Decision, Level, Outcome, OutcomeKind, Reply, Rung
from ollama_guard.sentinel.answers import Answers
from ollama_guard.wire import Replied


def action(number: int, request_id: int | None) -> Action:
    return Action(
        number, ActionKind.UNLOAD, Rung.UNLOAD_IDLE, 10.0, names=(f"m{number}:latest",), request_id=request_id
    )


def decision(*actions: Action, replies: tuple[Reply, ...] = ()) -> Decision:
    return Decision(0.0, 0.0, Level.OK, Rung.UNLOAD_IDLE, "asked", actions, replies=replies)


def test_what_needs_no_action_is_answered_at_once() -> None:
    told: list[Replied] = []
    Answers(told.append).decided(decision(replies=(Reply(3, ok=True, text="paused for 5.0 s"),)))
    assert told == [Replied(3, ok=True, text="paused for 5.0 s")]


def test_an_unload_is_answered_when_its_last_action_has_ended() -> None:
    told: list[Replied] = []
    answers = Answers(told.append)
    answers.decided(decision(action(1, 7), action(2, 7)))
    answers.ended(Outcome(1, OutcomeKind.DONE, 1.0, freed_bytes=1024**3))
    assert told == []
    answers.ended(Outcome(2, OutcomeKind.DONE, 2.0, freed_bytes=1024**3))
    (reply,) = told
    assert (reply.request_id, reply.ok) == (7, True)
    assert reply.text == "m1:latest unloaded, 1.0 GiB came back; m2:latest unloaded, 1.0 GiB came back"
    assert reply.detail["freed_bytes"] == 2 * 1024**3


def test_one_failure_makes_the_answer_a_no_with_its_reason() -> None:
    told: list[Replied] = []
    answers = Answers(told.append)
    answers.decided(decision(action(1, 7)))
    answers.ended(Outcome(1, OutcomeKind.FAILED, 1.0, detail="hands died"))
    assert not told[0].ok
    assert told[0].text == "m1:latest not unloaded: hands died"


def test_the_guards_own_actions_answer_nobody() -> None:
    told: list[Replied] = []
    answers = Answers(told.append)
    answers.decided(decision(action(1, None)))
    answers.ended(Outcome(1, OutcomeKind.DONE, 1.0))
    assert told == []


def test_those_who_asked_through_dead_hands_are_forgotten() -> None:
    told: list[Replied] = []
    answers = Answers(told.append)
    answers.decided(decision(action(1, 7)))
    answers.forget()
    answers.ended(Outcome(1, OutcomeKind.DONE, 1.0))
    assert told == []
