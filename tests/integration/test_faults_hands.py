"""Hands that are killed again and again, or can't even be killed: the sentinel stays, and starts others."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.disks import hanging_disk
from beds.guard import Guard
from beds.handling import NOBODY_S, look, wait_look
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.clock import boottime
from ollama_guard.sentinel.poller import Poller
from ollama_guard.sentinel.supervise import Hands, HandsPlan

NOWHERE = "http://127.0.0.1:9"
SCRIPT = str(Path(__file__).with_name("scripted_hands.py"))


def test_hands_killed_three_times_come_back_ever_later_and_the_sentinel_stays(tmp_path: Path) -> None:
    """One event each; the pause between two starts doubles; the sockets answer again each time."""
    with Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path) as guard:
        wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
        sentinel, seen = guard.pid, set()
        for count in range(1, 4):
            seen.add(guard.hands_pid)
            os.kill(guard.hands_pid, signal.SIGKILL)
            guard.wait(
                lambda: len(guard.events("hands.restarted")) == count,  # noqa: B023 - used at once
                5,
                "it is told",
            )
            wait_look(guard, lambda told: told["guard"]["pid"] == sentinel, "they answer again", 15)
        assert len(seen) == 3
        assert guard.hands_pid not in seen
        told = [event["message"] for event in guard.events("hands.restarted")]
        assert [text.split()[-2] for text in told] == ["0.5", "1.0", "2.0"]
        assert look(guard)["ollama"]["alive"] is False
        assert guard.pid == sentinel


class House:
    """A supervisor of hands whose clock runs ahead as the test wants."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self.poller = Poller()
        self.hands = Hands(self.poller, HandsPlan("/run/guard", "/nonexistent", argv), lambda _: None)
        self.ahead = 0.0
        self.ended: list[str] = []

    def step(self, ahead: float = 0.0, wait: float = 0.02) -> None:
        """One wake of the loop, ``ahead`` seconds later than the clock says."""
        self.ahead += ahead
        told = self.hands.keep(boottime() + self.ahead, Policy())
        if told:
            self.ended.append(told)
        self.poller.wait(wait)

    def until(self, true: Callable[[], object], ahead: float = 0.0, seconds: float = 15.0) -> None:
        """Wake until it is true, or fail."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"it did not happen in time: {self.ended}"
            self.step(ahead)

    def close(self) -> None:
        """End the hands."""
        self.hands.stop()
        self.poller.close()


def test_ten_deaths_in_a_row_never_start_a_storm() -> None:
    """The pause doubles up to half a minute and stays there: two starts a minute at most."""
    house = House((sys.executable, SCRIPT, "die"))
    try:
        house.until(lambda: len(house.ended) == 10, ahead=0.5, seconds=30)
        pauses = [float(text.split()[-2]) for text in house.ended]
        assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
        assert not house.hands.alive
    finally:
        house.close()


STUCK = """
import sys, threading, time, socket, pathlib
fd = int(sys.argv[sys.argv.index("--fd") + 1])
from ollama_guard.channel import Channel
from ollama_guard.wire import Beat
channel = Channel(socket.socket(fileno=fd))
threading.Thread(target=lambda: open(sys.argv[1] + "/status.json"), daemon=True).start()
while not channel.closed:
    channel.send(Beat(0.0))
    channel.receive()
    time.sleep(0.02)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_hands_that_not_even_kill_ends_are_left_behind_and_replaced(tmp_path: Path) -> None:
    """One thread waits for a dead disk: the process outlives SIGKILL. Others start, but only a few such."""
    try:
        with hanging_disk(tmp_path / "state") as disk:
            house = House((sys.executable, "-c", STUCK, str(disk)))
            try:
                pids = []
                for count in range(1, 5):
                    house.until(lambda: house.hands.alive, ahead=0.2)
                    time.sleep(0.3)  # the thread is in its open(2) by then
                    assert house.hands.pid is not None
                    pids.append(house.hands.pid)
                    os.kill(pids[-1], signal.SIGKILL)
                    house.until(lambda: len(house.ended) == count, ahead=0.5)  # noqa: B023 - used at once
                assert all("can't end" in text for text in house.ended), house.ended
                assert len(set(pids)) == 4
                for _ in range(100):  # a minute later
                    house.step(ahead=0.6, wait=0.0)
                assert house.hands.pid is None
                assert "wait for a disk" in house.hands.reason
                began = time.monotonic()
            finally:
                house.hands.stop()
            assert time.monotonic() - began < 1.0
        # The disk is gone: they can end, and others start.
        house.until(lambda: house.hands.alive, ahead=0.5)
        house.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), ahead=0.5)
    except BedUnavailable as problem:
        pytest.skip(str(problem))
    finally:
        house.close()
