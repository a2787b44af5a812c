"""What a person should know reaches hands once there are any; the rest of the log does not."""

from __future__ import annotations

from ollama_guard.core.events import ALERTED, EVENT_NAMES, Event
from ollama_guard.sentinel.notices import LIMIT, Notices
from ollama_guard.wire import Noticed


def told(notices: Notices) -> list[Noticed]:
    sent: list[Noticed] = []
    notices.pass_on(sent.append)
    return sent


def test_only_what_a_person_should_know_is_passed_on_and_once() -> None:
    notices = Notices()
    notices.add([Event("level.changed", "x"), Event("blob.condemned", "y", fields={"blob": "b"})], 5.0)
    assert told(notices) == [Noticed("blob.condemned", "y", 5.0, {"blob": "b"})]
    assert told(notices) == []


def test_a_guard_that_gives_up_is_told_whatever_the_event() -> None:
    notices = Notices()
    notices.add([Event("decision.held", "x"), Event("decision.held", "y", fields={"gave_up": True})], 5.0)
    assert [notice.message for notice in told(notices)] == ["y"]


def test_while_there_are_no_hands_the_newest_wait() -> None:
    notices = Notices()
    notices.add([Event("blob.condemned", str(number)) for number in range(LIMIT + 3)], 5.0)
    assert [notice.message for notice in told(notices)] == [str(n) for n in range(3, LIMIT + 3)]
    assert notices.dropped == 3


def test_every_alerted_event_is_one_that_is_written() -> None:
    assert ALERTED <= EVENT_NAMES
