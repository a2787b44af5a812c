"""Actions end in exactly one outcome each, named right."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.errors import OllamaError
from ollama_guard.hands.acting import STALE_SECONDS, WORKERS, Actor
from ollama_guard.wire import OutcomeReported


class UnloadingOllama:
    """An `OllamaPort` that only unloads: a reason, an exception, or a call that waits."""

    def __init__(self, answer: Any = "unload") -> None:
        self.answer = answer
        self.unloaded: list[str] = []

    def unload(self, model: str, deadline_seconds: float) -> str:
        """As told."""
        assert deadline_seconds > 0
        self.unloaded.append(model)
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, threading.Event):
            self.answer.wait(30)
            return "unload"
        return str(self.answer)

    def version(self, deadline_seconds: float) -> str:
        """Not asked by the actor."""
        raise NotImplementedError

    loaded = catalogue = version


def action(number: int = 7, **changes: Any) -> Action:
    values: dict[str, Any] = {
        "kind": ActionKind.UNLOAD,
        "rung": Rung.UNLOAD_IDLE,
        "deadline_at": 1010.0,
        "model": "m",
    }
    return Action(number, **(values | changes))


def outcome(loop: Any, ollama: Any, wanted: Action) -> Outcome:
    Actor(loop.mailbox, loop.send, loop.clock).act(wanted, ollama)
    loop.run_until(lambda: bool(loop.sent))
    (message,) = loop.sent
    assert isinstance(message, OutcomeReported)
    return message.outcome


@pytest.mark.parametrize("kind", [ActionKind.UNLOAD, ActionKind.PURGE_GHOST])
def test_an_accepted_unload_is_done_and_claims_no_bytes(loop: Any, kind: ActionKind) -> None:
    """What came back is measured by the sentinel, on the victim."""
    ollama = UnloadingOllama()
    assert outcome(loop, ollama, action(kind=kind)) == Outcome(7, OutcomeKind.DONE, 1000.0, 0, "accepted")
    assert ollama.unloaded == ["m"]


def test_a_refused_unload_is_failed_with_the_sentence(loop: Any) -> None:
    ollama = UnloadingOllama(OllamaError("not_found", "POST /api/generate was answered with 404: gone"))
    ended = outcome(loop, ollama, action())
    assert (ended.kind, ended.detail) == (
        OutcomeKind.FAILED,
        "POST /api/generate was answered with 404: gone",
    )


def test_an_answer_that_is_no_unload_is_failed(loop: Any) -> None:
    ended = outcome(loop, UnloadingOllama("load"), action())
    assert ended.kind is OutcomeKind.FAILED
    assert "'load'" in ended.detail


def test_an_action_past_its_deadline_is_skipped_and_never_sent(loop: Any) -> None:
    ollama = UnloadingOllama()
    assert outcome(loop, ollama, action(deadline_at=999.0)).kind is OutcomeKind.SKIPPED
    assert ollama.unloaded == []


def test_a_kill_is_not_for_these_hands(loop: Any) -> None:
    ollama = UnloadingOllama()
    assert outcome(loop, ollama, action(kind=ActionKind.KILL)).kind is OutcomeKind.FAILED
    assert ollama.unloaded == []


def test_a_name_is_taken_from_the_aliases_when_none_is_given(loop: Any) -> None:
    ollama = UnloadingOllama()
    outcome(loop, ollama, action(model=None, names=("first", "second")))
    assert ollama.unloaded == ["first"]


def test_one_slow_unload_does_not_hold_up_another(loop: Any) -> None:
    gate = threading.Event()
    actor = Actor(loop.mailbox, loop.send, loop.clock)
    actor.act(action(1), UnloadingOllama(gate))  # type: ignore[arg-type]
    actor.act(action(2), UnloadingOllama())  # type: ignore[arg-type]
    loop.run_until(lambda: bool(loop.sent))
    assert [message.outcome.action_id for message in loop.sent] == [2]
    gate.set()
    loop.run_until(lambda: len(loop.sent) == 2)


def test_the_same_action_twice_is_sent_once_while_it_is_under_way(loop: Any) -> None:
    gate = threading.Event()
    ollama = UnloadingOllama(gate)
    actor = Actor(loop.mailbox, loop.send, loop.clock)
    actor.act(action(1), ollama)  # type: ignore[arg-type]
    actor.act(action(1), ollama)  # type: ignore[arg-type]
    actor.act(action(2), UnloadingOllama())  # type: ignore[arg-type]
    loop.run_until(lambda: bool(loop.sent))
    gate.set()
    loop.run_until(lambda: len(loop.sent) == 2)
    assert ollama.unloaded == ["m"]


def test_an_order_of_the_governor_that_waited_for_its_thread_is_judged_anew_and_any_other_is_sent(
    loop: Any,
) -> None:
    """Nothing presses for it, and who was idle then may be in use; memory that is short can't wait."""
    gate = threading.Event()
    stuck, ollama = UnloadingOllama(gate), UnloadingOllama()
    actor = Actor(loop.mailbox, loop.send, loop.clock)
    for number in range(WORKERS):
        actor.act(action(number), stuck)  # type: ignore[arg-type]
    actor.act(action(11, rung=Rung.KEEP_ALIVE, model="governed"), ollama)  # type: ignore[arg-type]
    actor.act(action(12, model="wanted"), ollama)  # type: ignore[arg-type]
    loop.now += STALE_SECONDS + 0.5
    gate.set()
    loop.run_until(lambda: len(loop.sent) == WORKERS + 2)
    ended = {message.outcome.action_id: message.outcome for message in loop.sent}
    assert ended[11].kind is OutcomeKind.SKIPPED
    assert ended[11].detail == "it waited for 1.5 s, so it is judged anew"
    assert ollama.unloaded == ["wanted"]


def test_an_order_of_the_governor_is_an_unload_like_any_other(loop: Any) -> None:
    ollama = UnloadingOllama()
    assert outcome(loop, ollama, action(rung=Rung.KEEP_ALIVE)).kind is OutcomeKind.DONE
    assert ollama.unloaded == ["m"]
