"""When Ollama is asked: seldom when calm, at once when wanted, and never so often that its log drowns."""

from __future__ import annotations

from ollama_guard.hands import polling
from ollama_guard.hands.polling import PollSchedule


def story(schedule: PollSchedule, start: float, end: float, *, changed: bool = False) -> list[float]:
    """The times of every ps from ``start`` to ``end``, each answered at once."""
    times = []
    while (due := schedule.ps_due_at()) is not None and max(due, start) <= end:
        now = max(due, start)
        schedule.ps_sent(now)
        schedule.ps_answered(changed=changed)
        times.append(round(now, 3))
    return times


def started(poll_seconds: float = 15.0) -> PollSchedule:
    """A schedule that has asked once, at 100 s, and knows the version."""
    schedule = PollSchedule(poll_seconds)
    schedule.version_sent(100.0)
    schedule.version_ended(answered=True)
    assert story(schedule, 100.0, 100.0) == [100.0]
    return schedule


def test_when_calm_ps_is_asked_as_rarely_as_the_policy_says_and_version_never() -> None:
    schedule = started()
    assert story(schedule, 100.0, 160.0) == [115.0, 130.0, 145.0, 160.0]
    assert schedule.version_due_at() is None


def test_a_birth_brings_a_poll_at_once_and_follow_ups_until_the_answer_changes() -> None:
    schedule = started()
    schedule.wanted("born", pressed=False, now=103.0)
    assert story(schedule, 103.0, 110.0) == [103.0, 103.2, 103.5, 104.0, 105.0, 107.0]
    schedule.wanted("born", pressed=False, now=110.0)
    assert story(schedule, 110.0, 120.0, changed=True) == [110.0]


def test_wishes_while_one_is_under_way_are_served_once_after_it() -> None:
    """An answer that was asked for before a birth can't know of it."""
    schedule = started()
    schedule.ps_sent(115.0)
    schedule.wanted("born", pressed=False, now=115.1)
    schedule.wanted("died", pressed=False, now=115.15)
    assert schedule.ps_due_at() is None
    schedule.ps_answered(changed=False)
    assert schedule.ps_due_at() == 115.0 + polling.LEAST_GAP_SECONDS


def test_under_pressure_ps_is_asked_every_two_seconds_until_it_is_over() -> None:
    schedule = started()
    schedule.wanted("pressed", pressed=True, now=110.0)
    assert story(schedule, 114.5, 121.0)[1:] == [116.5, 118.5, 120.5]
    schedule.wanted("calm", pressed=False, now=122.0)
    story(schedule, 122.0, 127.0)
    assert story(schedule, 127.0, 150.0) == [141.0]


def test_a_sentinel_that_repeats_itself_at_every_tick_does_not_flood_the_log() -> None:
    schedule = started()
    times: list[float] = []
    for tick in range(200):
        now = 110.0 + tick * 0.05
        schedule.wanted("pressed", pressed=True, now=now)
        times += story(schedule, now, now)
    assert len(times) <= 10


def test_a_blocked_ps_brings_version_probes_beside_it() -> None:
    schedule = started()
    schedule.ps_sent(120.0)
    assert schedule.version_due_at() == 120.0 + polling.BLOCKED_SECONDS
    schedule.version_sent(122.0)
    assert schedule.version_due_at() is None
    schedule.version_ended(answered=True)
    assert schedule.version_due_at() == 122.0 + polling.VERSION_SECONDS
    schedule.ps_answered(changed=False)
    assert schedule.version_due_at() is None


def test_a_failing_ps_leaves_version_as_the_proof_of_life() -> None:
    schedule = started()
    schedule.ps_sent(120.0)
    schedule.ps_failed("timeout")
    assert schedule.version_due_at() == 100.0 + polling.VERSION_SECONDS
    assert schedule.ps_due_at() == 135.0


def test_a_server_that_is_gone_is_asked_every_two_seconds_and_then_for_its_version() -> None:
    schedule = started()
    schedule.ps_sent(115.0)
    schedule.ps_failed("refused")
    assert schedule.ps_due_at() == 115.0 + polling.REFUSED_SECONDS
    assert schedule.version_due_at() is None
    schedule.ps_sent(117.0)
    schedule.ps_answered(changed=True)
    due = schedule.version_due_at()
    assert due is not None
    assert due <= 117.0


def test_a_storm_of_births_does_not_become_a_storm_of_polls() -> None:
    """A client that asks each second for a model that is killed at birth: 5 minutes, not 1,500 lines."""
    schedule = started()
    times: list[float] = []
    for second in range(300):
        at = 101.0 + second
        schedule.wanted("born", pressed=False, now=at)
        schedule.wanted("died", pressed=False, now=at + 0.3)
        times += story(schedule, at, at + 0.99)
    assert len(times) < 250
