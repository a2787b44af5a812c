"""The guard's callback in the real proxy: who serves a request, and what is said of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from beds.litellm_proxy import Answer, Tally
from beds.litellm_yard import LADDER, OTHER_WAYS, Yard

MODELS = [model for _, model in LADDER]
NAMES = ["gpt-3.5-turbo-light", "gpt-3.5-turbo", "gpt-4", "gpt-4-turbo"]

# What is promised of a level change; and the longest that a request may take where nothing fails: it takes
# milliseconds, but the proxy may get little CPU time.
FOLLOWS_SECONDS = 2.0
ANSWERED_SECONDS = 10.0


def settled(yard: Yard) -> None:
    """Let the proxy forget what its guard of the test before has said."""
    deadline = time.monotonic() + 20
    while yard.proxy.chat("gpt-4-turbo").served_by and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.mark.parametrize("largest", [3, 2, 1, 0])
def test_a_request_goes_to_the_largest_allowed_tier_at_or_below_the_one_asked_for(
    yard: Yard, largest: int
) -> None:
    """And the answer's headers say who served it."""
    with yard.guard() as guard:
        guard.allow(largest)
        time.sleep(1)
        for place, name in enumerate(NAMES):
            answer = yard.proxy.chat(name)
            serving = min(place, largest)
            assert (answer.status, answer.text) == (200, f"said by {MODELS[serving]}")
            assert answer.headers["x-ollama-guard-model"] == MODELS[serving]
            assert answer.headers["x-ollama-guard-tier"] == LADDER[serving][0]
            assert answer.headers["x-ollama-guard-asked"] == name
            assert answer.headers["x-litellm-model-group"] == NAMES[serving]


def test_without_a_guard_every_model_serves_what_it_is_asked_for(yard: Yard) -> None:
    """The control, and the promise that a guard that is away changes nothing."""
    settled(yard)
    for name, model in zip(NAMES, MODELS, strict=True):
        answer = yard.proxy.chat(name)
        assert (answer.status, answer.text, answer.served_by) == (200, f"said by {model}", "")
    yard.ollama.moods[MODELS[2]].status = 500
    assert yard.proxy.chat("gpt-4").text == f"said by {MODELS[1]}"  # by the configured fallbacks


def test_a_stream_is_moved_too_and_says_so_before_its_first_byte(yard: Yard) -> None:
    with yard.guard() as guard:
        guard.allow(0)
        time.sleep(1)
        answer = yard.proxy.chat("gpt-4", stream=True)
        assert (answer.status, answer.served_by) == (200, MODELS[0])
        assert f"said by {MODELS[0]}" in answer.body


@pytest.mark.parametrize(("path", "body"), OTHER_WAYS, ids=["responses", "messages"])
def test_the_other_ways_to_ask_are_moved_as_well(yard: Yard, path: str, body: dict[str, object]) -> None:
    with yard.guard() as guard:
        guard.allow(1)
        time.sleep(1)
        answer = yard.proxy.post(path, {"model": "gpt-4", **body})
        assert answer.status == 200, answer.body
        assert answer.served_by == MODELS[1]
    assert {model for _, model in yard.ollama.asked} == {MODELS[1]}


def test_a_smaller_tier_that_fails_is_helped_out_by_the_next_larger_one_and_no_further(yard: Yard) -> None:
    """One step: where that fails too, the client gets the error, though a still larger one is allowed."""
    with yard.guard() as guard:
        guard.allow(3)
        time.sleep(1)
        yard.ollama.moods[MODELS[0]].status = 500
        answer = yard.proxy.chat(NAMES[0])
        assert (answer.status, answer.text, answer.served_by) == (200, f"said by {MODELS[1]}", MODELS[1])
        yard.ollama.moods[MODELS[1]].status = 500
        assert yard.proxy.chat(NAMES[0]).status == 500
        assert yard.ollama.times_asked(MODELS[2]) == 0


def test_the_step_up_is_not_made_to_a_tier_that_is_not_allowed(yard: Yard) -> None:
    """Neither when the request comes, nor when memory has fallen before the smaller tier has failed."""
    with yard.guard() as guard:
        guard.allow(0)
        time.sleep(1)
        yard.ollama.moods[MODELS[0]].status = 500
        assert yard.proxy.chat(NAMES[0]).status == 500
        assert yard.ollama.times_asked(MODELS[1]) == 0
        guard.allow(1)
        time.sleep(1)
        yard.ollama.moods[MODELS[0]].seconds = 1.0
        threading.Timer(0.5, guard.allow, [0]).start()
        answer = yard.proxy.chat(NAMES[0])
        assert (answer.status, "made to fail" in str(answer.body)) == (500, True)
        assert yard.ollama.times_asked(MODELS[1]) == 0


def test_a_larger_tier_that_fails_falls_to_the_allowed_ones_below_it(yard: Yard) -> None:
    with yard.guard() as guard:
        guard.allowed = [True, False, True, False]
        time.sleep(1)
        yard.ollama.moods[MODELS[2]].status = 500
        answer = yard.proxy.chat("gpt-4-turbo")
        assert (answer.text, answer.served_by) == (f"said by {MODELS[0]}", MODELS[0])
        assert yard.ollama.times_asked(MODELS[1]) == 0


def test_who_asks_for_a_model_of_no_tier_gets_it_whatever_is_allowed(yard: Yard) -> None:
    with yard.guard() as guard:
        guard.allow(-1)
        time.sleep(1)
        answer = yard.proxy.chat("twins")
        assert (answer.status, answer.served_by) == (200, "")


def test_a_guard_that_hangs_makes_nobody_wait_and_then_counts_as_away(yard: Yard) -> None:
    """Its last word holds for five seconds; a storm of requests asks it once at a time."""
    with yard.guard() as guard:
        guard.allow(0)
        time.sleep(1)
        assert yard.proxy.chat("gpt-4").served_by == MODELS[0]
        guard.hanging.set()
        time.sleep(0.6)
        answers = [yard.proxy.chat("gpt-4") for _ in range(5)]
        assert [answer.served_by for answer in answers[:2]] == [MODELS[0]] * 2
        assert max(answer.seconds for answer in answers) < ANSWERED_SECONDS / 2
        time.sleep(5)
        assert yard.proxy.chat("gpt-4").text == f"said by {MODELS[2]}"
        guard.hanging.clear()
        time.sleep(2.5)
        yard.proxy.chat("gpt-4")
        time.sleep(0.5)
        assert yard.proxy.chat("gpt-4").served_by == MODELS[0]


@contextmanager
def clients(yard: Yard, count: int, begun: float) -> Iterator[Tally]:
    """So many, each asking for gpt-4 as soon as it has an answer."""
    tally, over = Tally(), threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        while not over.is_set():
            at = time.monotonic() - begun
            try:
                tally.answers.append((at, yard.proxy.chat("gpt-4", timeout=ANSWERED_SECONDS)))
            except OSError as problem:
                failures.append(problem)
            time.sleep(0.1)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []


def told(answers: list[Answer]) -> set[str]:
    return {answer.text if answer.status == 200 else str(answer.status) for answer in answers}


def test_while_memory_falls_and_comes_back_requests_step_down_and_climb_and_none_hangs(yard: Yard) -> None:
    """From 2 s after each change on, all are served as it allows; with the guard gone, by whom they ask."""
    begun = time.monotonic()
    seen: list[tuple[float, float, set[str]]] = []
    with clients(yard, 3, begun) as tally:
        with yard.guard() as guard:
            for largest in (3, 1, 0, -1, 0, 1, 2):
                guard.allow(largest)
                at = time.monotonic() - begun
                time.sleep(FOLLOWS_SECONDS + 1.5)
                expected = {"503"} if largest < 0 else {f"said by {MODELS[min(largest, 2)]}"}
                seen.append((at + FOLLOWS_SECONDS, time.monotonic() - begun, expected))
            guard.allow(0)
            time.sleep(1)
        at = time.monotonic() - begun
        time.sleep(FOLLOWS_SECONDS + 1.5)
        seen.append((at + FOLLOWS_SECONDS, time.monotonic() - begun, {f"said by {MODELS[2]}"}))
    for begin, end, expected in seen:
        assert told(tally.within(begin, end)) == expected, (begin, end)
    assert max(answer.seconds for _, answer in tally.answers) < ANSWERED_SECONDS
