"""A server that can't be stopped any other way is killed with its runners, and nobody who looks like them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from beds.decoys import Decoy
from beds.fake_server import FakeServer
from beds.process import alive
from ollama_guard.core.model import (
    Action,
    ActionKind,
    ApiReading,
    Outcome,
    OutcomeKind,
    Rung,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.clock import boottime
from ollama_guard.sentinel.poller import Poller
from ollama_guard.sentinel.reaper import Reaper
from ollama_guard.sentinel.reflexes import Reflexes
from ollama_guard.sentinel.sensors import Sensors

PATIENCE_SECONDS = 10.0
MIB = 1024**2


class Bench:
    """The real sensors and the real kill rung."""

    def __init__(self) -> None:
        self.sensors = Sensors(Policy())
        self.poller, self.reaper = Poller(), Reaper()
        self.reaper.start()
        self.reflexes = Reflexes(
            self.poller, self.reaper, self.sensors.still_the_same, self.sensors.still_the_server
        )

    def until(self, fits: Callable[[Snapshot], bool]) -> Snapshot:
        """Look until the snapshot is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            snapshot = self.sensors.sense(boottime(), time.time(), ApiReading())
            if fits(snapshot):
                return snapshot
            time.sleep(0.05)
        raise AssertionError(snapshot)

    def kill(self, server: ServerReading, snapshot: Snapshot) -> Outcome:
        """Kill a server as the loop does, and wait for what becomes of it."""
        action = Action(
            1, ActionKind.KILL_SERVER, Rung.PLAYBOOK, boottime() + 5, pid=server.pid,
            start_ticks=server.start_ticks,
        )  # fmt: skip
        refused = self.reflexes.kill_server(action, server, snapshot.runners, boottime())
        ended = [refused] if refused else []
        while not ended:
            self.poller.wait(0.05)
            ended = self.reflexes.collect(boottime())
        return ended[0]

    def close(self) -> None:
        """End every helper."""
        self.reflexes.close()
        self.reaper.stop()
        self.poller.close()
        self.sensors.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def ollama() -> Iterator[FakeServer]:
    """A server with two models loaded."""
    with FakeServer() as server:
        server.load("tiny")
        server.load("tiny2")
        yield server


def of(snapshot: Snapshot, pid: int) -> ServerReading:
    return next(server for server in snapshot.servers if server.pid == pid)


def with_runners(pid: int, count: int) -> Callable[[Snapshot], bool]:
    """Whether this server has so many proven runners."""

    def fits(snapshot: Snapshot) -> bool:
        return sum(1 for r in snapshot.runners if r.server_pid == pid and r.proven) == count

    return fits


@pytest.mark.parametrize("stopped", [False, True], ids=["alive", "stopped"])
def test_the_server_and_its_runners_go_at_once_and_their_memory_is_counted(
    bench: Bench, ollama: FakeServer, *, stopped: bool
) -> None:
    pid, pids = ollama.pid, ollama.runner_pids()
    with Decoy.llama_server(ollama.blob("tiny")) as own_llama, Decoy(["ollama", "serve-not"]) as other:
        snapshot = bench.until(with_runners(pid, 2))
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        outcome = bench.kill(of(snapshot, pid), snapshot)
        assert outcome.kind is OutcomeKind.DONE, outcome.detail
        assert "2 runners of it as well" in outcome.detail
        assert outcome.freed_bytes > 2 * 94 * MIB
        assert not any(map(alive, pids.values()))
        assert own_llama.alive
        assert other.alive


def test_without_that_the_runners_live_on_with_all_their_memory(ollama: FakeServer) -> None:
    """Facts 2.7: why the sentinel takes them along."""
    pids = ollama.runner_pids()
    os.kill(ollama.pid, signal.SIGKILL)
    ollama.fake.wait_exit()
    assert len(pids) == 2
    assert all(map(alive, pids.values()))


def test_a_server_that_was_restarted_meanwhile_is_not_the_one_that_was_meant(
    bench: Bench, ollama: FakeServer
) -> None:
    old = ollama.pid
    before = bench.until(with_runners(old, 2))
    ollama.stop()
    ollama.start()
    ollama.load("tiny")
    bench.until(with_runners(ollama.pid, 1))
    outcome = bench.kill(of(before, old), before)
    assert outcome.kind is OutcomeKind.SKIPPED
    assert alive(ollama.pid)
    assert len(ollama.runner_pids()) == 1
