"""Lanes: results come back through the mailbox, and no call can hold up another for ever."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import pytest

from ollama_guard.errors import OllamaError
from ollama_guard.hands import lanes
from ollama_guard.hands.lanes import Broken, Lane, Mailbox, NeverStarted, Overdue, Result


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time as it was set."""
        return self.now


class Results(list[Result]):
    """Collects results as the main loop would."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def wait_for(self, count: int) -> None:
        """Run the mailbox until so many results are there."""
        while len(self) < count:
            assert select.select([self._mailbox], [], [], 10)[0], "no result came"
            self._mailbox.run()


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a hanging call waits for; opened at the end so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def test_a_value_comes_back_and_a_named_failure_as_well(mailbox: Mailbox) -> None:
    results, clock = Results(mailbox), Clock()
    lane = Lane("test", 1, mailbox, clock)
    problem = OllamaError("timeout", "too late")

    def fail() -> object:
        raise problem

    lane.submit(lambda: 42, 110.0, results.append)
    lane.submit(fail, 110.0, results.append)
    results.wait_for(2)
    assert results == [Result(value=42), Result(error=problem)]


def test_an_unexpected_exception_costs_one_job_and_tells_where_it_came_from(mailbox: Mailbox) -> None:
    results = Results(mailbox)
    lane = Lane("test", 1, mailbox, Clock())
    lane.submit(lambda: 1 / 0, 110.0, results.append)
    lane.submit(lambda: "alive", 110.0, results.append)
    results.wait_for(2)
    assert isinstance(results[0].error, Broken)
    assert "ZeroDivisionError" in str(results[0].error)
    assert results[1].value == "alive"


def test_a_job_whose_time_has_passed_is_never_started(mailbox: Mailbox) -> None:
    results, ran = Results(mailbox), []
    Lane("test", 1, mailbox, Clock()).submit(lambda: ran.append(1), 99.0, results.append)
    results.wait_for(1)
    assert isinstance(results[0].error, NeverStarted)
    assert not ran


def test_a_thread_that_hangs_is_given_up_and_the_lane_goes_on(
    mailbox: Mailbox, gate: threading.Event
) -> None:
    results, clock, running = Results(mailbox), Clock(), threading.Event()
    lane = Lane("test", 1, mailbox, clock)

    def hang() -> str:
        running.set()
        gate.wait()
        return "far too late"

    lane.submit(hang, 105.0, results.append)
    lane.submit(lambda: "next", 200.0, results.append)
    assert running.wait(10)
    clock.now = 105.0 + lanes.GRACE_SECONDS / 2
    lane.check()
    before = lane.stuck
    clock.now = 105.1 + lanes.GRACE_SECONDS
    lane.check()
    results.wait_for(2)
    assert (before, lane.stuck) == (0, 1)
    errors = [result for result in results if result.error is not None]
    assert len(errors) == 1
    assert type(errors[0].error) is Overdue
    assert "next" in [result.value for result in results]


def test_a_late_answer_of_a_given_up_thread_is_dropped_and_the_thread_ends(
    mailbox: Mailbox, gate: threading.Event
) -> None:
    results, clock, running = Results(mailbox), Clock(), threading.Event()
    lane = Lane("test", 1, mailbox, clock)
    threads: list[threading.Thread] = []

    def hang() -> str:
        threads.append(threading.current_thread())
        running.set()
        gate.wait()
        return "far too late"

    lane.submit(hang, 105.0, results.append)
    assert running.wait(10)
    clock.now = 110.0
    lane.check()
    gate.set()
    threads[0].join(10)
    assert not threads[0].is_alive()
    mailbox.run()
    assert [type(result.error) for result in results] == [Overdue]
    assert lane.stuck == 0


def test_stuck_threads_are_bounded_and_waiting_jobs_still_end(
    mailbox: Mailbox, gate: threading.Event
) -> None:
    results, clock = Results(mailbox), Clock()
    lane = Lane("test", 1, mailbox, clock)
    before = threading.active_count()
    for n in range(lanes.STUCK_LIMIT * 3):
        lane.submit(lambda: gate.wait(60), clock.now + 1.0, results.append)
        clock.now += 3.0
        lane.check()
        results.wait_for(n + 1)
    assert threading.active_count() <= before + lanes.STUCK_LIMIT
    assert all(isinstance(result.error, Overdue) for result in results)


def test_a_slow_job_leaves_the_other_workers_free(mailbox: Mailbox, gate: threading.Event) -> None:
    results = Results(mailbox)
    lane = Lane("test", 2, mailbox, Clock())
    lane.submit(gate.wait, 1000.0, results.append)
    lane.submit(lambda: "quick", 1000.0, results.append)
    results.wait_for(1)
    assert results[0].value == "quick"


def test_a_flooded_lane_refuses_at_once(mailbox: Mailbox, gate: threading.Event) -> None:
    results = Results(mailbox)
    lane = Lane("test", 1, mailbox, Clock())
    for _ in range(lanes.WAITING_LIMIT + 2):
        lane.submit(gate.wait, 1000.0, results.append)
    results.wait_for(1)
    assert isinstance(results[0].error, NeverStarted)
