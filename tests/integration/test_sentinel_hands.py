"""Hands may die, hang, babble or go deaf: the sentinel goes on, and starts them again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ollama_guard.core.codec import from_plain
from ollama_guard.core.policy import CapPolicy, Policy
from ollama_guard.sentinel.clock import boottime
from ollama_guard.sentinel.poller import Poller
from ollama_guard.sentinel.supervise import Hands, HandsPlan
from ollama_guard.wire import Beat, Message, PollWanted, RequestPosted

SCRIPT = str(Path(__file__).with_name("scripted_hands.py"))


class House:
    """A supervisor of hands whose clock can be put forward."""

    def __init__(self, role: str, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.poller = Poller()
        self.heard: list[Message] = []
        plan = HandsPlan("/run/guard", "/var/lib/guard", (sys.executable, SCRIPT, role))
        self.hands = Hands(self.poller, plan, self.heard.append)
        self.ahead = 0.0
        self.ended: list[str] = []

    def step(self, seconds: float = 0.02) -> None:
        """One wake of the loop."""
        died = self.hands.keep(boottime() + self.ahead, self.policy)
        if died:
            self.ended.append(died)
        self.poller.wait(seconds)

    def until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wake until it is true, or fail."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.step()

    def pass_time(self, seconds: float) -> None:
        """Put the clock forward in steps that look like an ordinary loop."""
        for _ in range(int(seconds / 2)):
            self.ahead += 2.0
            self.hands.keep(boottime() + self.ahead, self.policy)


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    built: list[House] = []

    def build(role: str, policy: Policy | None = None) -> House:
        built.append(House(role, policy))
        return built[-1]

    yield build
    for each in built:
        each.hands.stop()
        each.poller.close()


def test_they_are_alive_after_their_first_beat(house: Callable[..., House]) -> None:
    home = house("beat")
    home.step()
    assert not home.hands.alive
    assert home.hands.reason == "hands are starting"
    home.until(lambda: home.hands.alive)
    assert home.hands.reason == ""
    assert home.hands.pss_bytes == 1024


def test_they_inherit_their_own_descriptors_and_nothing_else(house: Callable[..., House]) -> None:
    secret, other = os.pipe()
    os.set_inheritable(secret, True)  # noqa: FBT003 - its only signature
    policy = Policy(cap=CapPolicy(soft_max=2))
    home = house("report", policy)
    home.until(lambda: any(isinstance(m, RequestPosted) for m in home.heard))
    os.close(secret)
    os.close(other)
    told = json.loads(next(m.request.model for m in home.heard if isinstance(m, RequestPosted)))
    # One more is the listing's own descriptor.
    assert set(told["own"]) <= set(told["fds"])
    assert len(told["fds"]) <= 3
    assert from_plain(Policy, json.loads(told["policy"])) == policy
    assert (told["term"], told["blocked"]) == (True, [])


def test_dead_hands_are_told_once_and_started_again(house: Callable[..., House]) -> None:
    home = house("die")
    home.until(lambda: bool(home.ended))
    assert "exit status 3" in home.ended[0]
    assert not home.hands.alive
    home.until(lambda: len(home.ended) >= 2)
    assert "1.0 s" in home.ended[1]


def test_the_back_off_doubles_up_to_thirty_seconds(house: Callable[..., House]) -> None:
    home = house("die")
    for _ in range(9):
        count = len(home.ended)
        home.until(lambda count=count: len(home.ended) > count)  # type: ignore[misc]
        home.ahead += 30.0
    delays = [line.rsplit("in ", 1)[1] for line in home.ended]
    assert delays[:4] == ["0.5 s", "1.0 s", "2.0 s", "4.0 s"]
    assert delays[-1] == "30.0 s"


def test_killed_hands_come_back(house: Callable[..., House]) -> None:
    home = house("beat")
    home.until(lambda: home.hands.alive)
    first = home.hands.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    home.until(lambda: bool(home.ended))
    assert "SIGKILL" in home.ended[0]
    home.until(lambda: home.hands.alive and home.hands.pid != first)


def test_stopped_hands_are_replaced_after_ten_silent_seconds(house: Callable[..., House]) -> None:
    home = house("beat")
    home.until(lambda: home.hands.alive)
    assert home.hands.pid is not None
    os.kill(home.hands.pid, signal.SIGSTOP)
    time.sleep(0.2)
    home.poller.wait(0)
    home.pass_time(8)
    assert home.hands.alive
    home.pass_time(6)
    home.until(lambda: bool(home.ended))
    assert "silent for 1" in home.ended[0]


def test_our_own_long_absence_is_not_their_silence(house: Callable[..., House]) -> None:
    home = house("beat")
    home.until(lambda: home.hands.alive)
    assert home.hands.pid is not None
    os.kill(home.hands.pid, signal.SIGSTOP)
    home.ahead += 3600.0
    home.step()
    assert home.hands.alive
    os.kill(home.hands.pid, signal.SIGCONT)


def test_hands_that_never_speak_are_given_half_a_minute(house: Callable[..., House]) -> None:
    home = house("mute")
    home.step()
    home.pass_time(28)
    assert home.ended == []
    home.pass_time(4)
    home.until(lambda: bool(home.ended))
    assert "silent for 3" in home.ended[0]


def test_babbling_hands_are_replaced_and_never_hold_the_loop_up(house: Callable[..., House]) -> None:
    home = house("garbage")
    slowest = 0.0
    while not home.ended:
        started = time.perf_counter()
        home.step()
        slowest = max(slowest, time.perf_counter() - started)
    assert "broken packets" in home.ended[0]
    assert slowest < 0.3


def test_deaf_hands_never_make_us_wait(house: Callable[..., House]) -> None:
    home = house("deaf")
    home.until(lambda: home.hands.alive)
    started = time.perf_counter()
    for number in range(2000):
        home.hands.send(PollWanted(f"{number} {'x' * 500}"))
    assert time.perf_counter() - started < 1.0
    assert home.hands.dropped > 0
    home.step()
    assert home.hands.alive


def test_stopping_deaf_hands_takes_less_than_a_second(house: Callable[..., House]) -> None:
    home = house("deaf")
    home.until(lambda: any(isinstance(m, Beat) for m in home.heard))
    pid = home.hands.pid
    started = time.perf_counter()
    home.hands.stop()
    assert time.perf_counter() - started < 0.8
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_is_not_there_is_tried_again_with_back_off() -> None:
    poller = Poller()
    hands = Hands(poller, HandsPlan("/r", "/s", ("/nonexistent/python",)), lambda _: None)
    died = ""
    while not died:
        died = hands.keep(boottime(), Policy())
        poller.wait(0.02)
    assert "exit status 127" in died
    hands.stop()
    poller.close()
