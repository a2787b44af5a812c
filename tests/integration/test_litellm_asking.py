"""How the proxy asks the guard: it must never wait for it, and believe nobody who is away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.guard import Guard
from beds.handling import NOBODY_S, look, wait_look
from beds.litellm_world import FakeGuard
from ollama_guard.integrations.asking import (
    BELIEVED_SECONDS,
    CACHE_SECONDS,
    FILE_SECONDS,
    SILENT_SECONDS,
    GuardView,
)
from ollama_guard.integrations.routing import Rung

TIERS = [("light", "a:1"), ("default", "b:1")]
PATIENCE_SECONDS = 30.0  # the fake guard is a thread of this process: beside other tests it may get no time
BOTH = tuple(Rung(name, model, allowed=True, reason="") for name, model in TIERS)


class Clock:
    """One that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[FakeGuard]:
    with FakeGuard(tmp_path / "status.sock", TIERS) as there:
        yield there


def test_an_answer_is_used_for_a_moment_and_then_asked_for_anew(guard: FakeGuard) -> None:
    clock = Clock()
    view = GuardView(str(guard.path), clock=clock, wait_seconds=PATIENCE_SECONDS)

    async def story() -> None:
        assert await view.ladder() == BOTH
        guard.allow(0)
        assert await view.ladder() == BOTH
        assert guard.asked == 1
        clock.now += CACHE_SECONDS
        assert [rung.allowed for rung in await view.ladder()] == [True, False]
        assert guard.asked == 2

    asyncio.run(story())


def test_many_at_once_ask_once(guard: FakeGuard) -> None:
    view = GuardView(str(guard.path), clock=Clock(), wait_seconds=PATIENCE_SECONDS)

    async def story() -> None:
        assert await asyncio.gather(*(view.ladder() for _ in range(20))) == [BOTH] * 20

    asyncio.run(story())
    assert guard.asked == 1


def test_a_guard_that_is_away_has_no_opinion_from_the_next_question_on(tmp_path: Path) -> None:
    """What it said last is forgotten at once: nobody answers for it any more."""
    clock = Clock()
    view = GuardView(str(tmp_path / "status.sock"), clock=clock, wait_seconds=PATIENCE_SECONDS)

    async def story() -> None:
        assert await view.ladder() == ()
        with FakeGuard(tmp_path / "status.sock", TIERS):
            clock.now += CACHE_SECONDS
            assert await view.ladder() == BOTH
        clock.now += CACHE_SECONDS
        assert await view.ladder() == ()

    asyncio.run(story())


def test_a_guard_that_hangs_is_waited_for_once_and_believed_for_a_moment(guard: FakeGuard) -> None:
    clock = Clock()
    view = GuardView(str(guard.path), clock=clock, wait_seconds=0.1)

    async def story() -> None:
        for _ in range(3000):
            if await view.ladder() == BOTH:
                break
            await asyncio.sleep(0.01)
        guard.hanging.set()
        guard.allow(0)
        clock.now += CACHE_SECONDS
        begun = time.monotonic()
        assert await view.ladder() == BOTH
        assert time.monotonic() - begun >= 0.1
        begun = time.monotonic()
        for _ in range(100):
            assert await view.ladder() == BOTH
        assert time.monotonic() - begun < 5  # had each waited, it would be 10
        clock.now += BELIEVED_SECONDS
        assert await view.ladder() == ()
        guard.hanging.clear()
        for _ in range(500):
            if await view.ladder():
                assert guard.asked <= 3  # not one for each who wanted to know
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the guard answers again, and is not heard")

    asyncio.run(story())


def test_what_a_silent_sentinel_said_last_is_no_opinion_though_its_hands_answer(guard: FakeGuard) -> None:
    clock = Clock()
    view = GuardView(str(guard.path), clock=clock, wait_seconds=PATIENCE_SECONDS)

    async def story() -> None:
        for age, ladder in ((SILENT_SECONDS, BOTH), (SILENT_SECONDS + 1, ()), (0.1, BOTH)):
            guard.age_seconds = age
            clock.now += CACHE_SECONDS
            assert await view.ladder() == ladder

    asyncio.run(story())


def test_nobody_is_made_to_look_for_who_holds_memory_at_each_question(guard: FakeGuard) -> None:
    assert asyncio.run(GuardView(str(guard.path), wait_seconds=PATIENCE_SECONDS).ladder()) == BOTH
    assert guard.paths == ["/status?brief"]


def test_a_sentinel_that_is_stopped_has_no_say_until_it_goes_on(tmp_path: Path) -> None:
    """The real guard: its hands answer all the time, with the ladder as it was when the sentinel stopped."""
    tiers = "\n".join(f'[[tiers]]\nname = "{name}"\nmodel = "{model}"' for name, model in TIERS)
    with Guard("http://127.0.0.1:9", cgroup=NOBODY_S, config=tiers, home=tmp_path) as guard:
        wait_look(guard, lambda told: len(told["tiers"]) == len(TIERS), "a first ladder")

        def heard() -> int:
            view = GuardView(str(guard.runtime / "status.sock"), wait_seconds=PATIENCE_SECONDS)
            return len(asyncio.run(view.ladder()))

        assert look(guard)["guard"]["age_seconds"] < SILENT_SECONDS
        assert heard() == len(TIERS)
        os.kill(guard.pid, signal.SIGSTOP)
        try:
            guard.wait(lambda: not heard(), SILENT_SECONDS + PATIENCE_SECONDS, "it counts as away")
            assert len(look(guard)["tiers"]) == len(TIERS)
        finally:
            os.kill(guard.pid, signal.SIGCONT)
        guard.wait(lambda: heard() == len(TIERS), PATIENCE_SECONDS, "it is heard again")


def status_file(path: Path, age_seconds: float = 0.0) -> Path:
    tiers = [{"name": name, "model": model, "allowed": True, "reason": ""} for name, model in TIERS]
    path.write_text(json.dumps({"tiers": tiers}))
    at = time.time() - age_seconds
    os.utime(path, (at, at))
    return path


@pytest.mark.parametrize(
    ("age_seconds", "ladder"), [(0.0, BOTH), (FILE_SECONDS + 5, ()), (-FILE_SECONDS - 5, ())]
)
def test_who_can_only_read_the_file_does_and_an_old_one_tells_nothing(
    tmp_path: Path, age_seconds: float, ladder: tuple[Rung, ...]
) -> None:
    path = status_file(tmp_path / "status.json", age_seconds)
    assert asyncio.run(GuardView(str(path), wait_seconds=PATIENCE_SECONDS).ladder()) == ladder


def test_without_a_socket_the_public_file_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not where the socket is there and nobody answers: that guard is away, whatever it wrote before."""
    monkeypatch.delenv("OLLAMA_GUARD_STATUS", raising=False)
    places = (str(tmp_path / "status.sock"), str(status_file(tmp_path / "status.json")))
    assert asyncio.run(GuardView(places=places, wait_seconds=PATIENCE_SECONDS).ladder()) == BOTH
    (tmp_path / "status.sock").touch()
    assert asyncio.run(GuardView(places=places, wait_seconds=PATIENCE_SECONDS).ladder()) == ()


def test_the_environment_names_another_place(guard: FakeGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_GUARD_STATUS", str(guard.path))
    assert asyncio.run(GuardView(wait_seconds=PATIENCE_SECONDS).ladder()) == BOTH


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100000, '{"tiers": 3}'])
def test_what_can_not_be_understood_is_no_opinion(tmp_path: Path, content: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(content)
    assert asyncio.run(GuardView(str(path), wait_seconds=PATIENCE_SECONDS).ladder()) == ()
