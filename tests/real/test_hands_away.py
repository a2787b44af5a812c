"""The kill rung needs no `hands`: they may be dead, stopped, or stuck in reclaim in every lane.

Told on the fake's newer dialect, since what is tested is the guard's inside. How fast the kill is, is for
benchmarks/kill_latency.py to measure; here it must only come before the kernel's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from beds.cgroups import MemoryCgroup
from beds.clients import StreamingClient
from beds.guard import Guard
from beds.process import alive
from beds.server import start_server
from beds.thrash import FRESH_PAGES, Pester, Thrash
from beds.yard import GIB, MIB, Yard

# Seconds that a promise without a time limit may take here.
AMPLE_SECONDS = 5.0

Away = Callable[[Guard], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def killed(guard: Guard) -> Iterator[None]:
    """Kill -9, and again whenever they are started again."""
    over, kills = threading.Event(), 0

    def kill_for_ever() -> None:
        nonlocal kills
        while not over.wait(0.005):
            with contextlib.suppress(OSError):
                os.kill(guard.hands_pid, signal.SIGKILL)
                kills += 1

    thread = threading.Thread(target=kill_for_ever, daemon=True)
    thread.start()
    try:
        guard.wait_event("hands.restarted", AMPLE_SECONDS)
        yield
    finally:
        over.set()
        thread.join()
    assert kills


@contextlib.contextmanager
def stopped(guard: Guard) -> Iterator[None]:
    """SIGSTOP: alive, and silent."""
    pid = guard.hands_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        assert guard.hands_pid == pid, "they were replaced before the story was over"
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def slowed(guard: Guard) -> Iterator[None]:
    """In a cgroup under constant reclaim; PSI says that they stall."""
    with Thrash() as thrash, Pester(guard.runtime / "status.sock"):
        pid = thrash.catch(guard)
        assert thrash.holds(pid)
        before, began = thrash.stalled_seconds(), time.monotonic()
        yield
        stalled, lasted = thrash.stalled_seconds() - before, time.monotonic() - began
        assert alive(pid), "they were to be slowed, not killed"
        assert stalled > 0.02 * lasted, f"stalled for {stalled:.3f} s of {lasted:.1f} s only"


def fall_through_critical(away: Away | None, make_cgroup: Callable[[int], MemoryCgroup]) -> None:
    """Mid and tiny answer, a hog takes the rest and more; with ``away`` None nobody guards."""
    with contextlib.ExitStack() as stack:
        cgroup = make_cgroup(1 * GIB)
        server = stack.enter_context(start_server("fake", cgroup))
        guard = None
        if away is not None:
            guard = stack.enter_context(Guard(server.url, cgroup=f"/{cgroup.name}", env=FRESH_PAGES))
            guard.wait_guarding(server.pid)
        place = Yard(cgroup, server, guard)
        for model in ("tiny", "mid"):
            server.load(model)
            client = stack.enter_context(StreamingClient(server.url, model, 4000))
            assert client.wait_streaming()
            place.wait_state(model, "busy")
        if guard is None or away is None:
            assert_the_kernel_kills(place)
            return
        with away(guard):
            assert_mid_alone_dies(place, guard)


def assert_the_kernel_kills(place: Yard) -> None:
    """The promise fails with the guard off."""
    before = place.cgroup.oom_kills()
    with place.hog() as hog:
        hog.grow(450 * MIB, 400 * MIB)
        hog.wait(AMPLE_SECONDS)
        assert place.cgroup.oom_kills() > before


def assert_mid_alone_dies(place: Yard, guard: Guard) -> None:
    """The runner whose end suffices dies, nobody else, and not by the kernel."""
    before, runners = place.cgroup.oom_kills(), place.server.runner_pids()
    assert runners.keys() == {"tiny", "mid"}
    with place.hog() as hog:
        hog.grow(450 * MIB, 400 * MIB)
        guard.wait(lambda: not alive(runners["mid"]), AMPLE_SECONDS, "the runner of mid is killed")
        assert hog.wait(AMPLE_SECONDS), guard.tail()
        assert place.cgroup.oom_kills() == before, guard.tail()
        assert alive(runners["tiny"]), guard.tail()
        told = guard.wait_event("runner.killed", AMPLE_SECONDS)
        assert told["names"] == "mid:latest", guard.tail()
        assert len(guard.events("runner.killed")) == 1, guard.tail()


@pytest.mark.parametrize("away", [killed, stopped, slowed])
def test_7_the_kill_rung_acts_while_hands_are_away(
    away: Away, memory_cgroup: Callable[[int], MemoryCgroup]
) -> None:
    """At critical exactly the runner that suffices dies, whatever has become of `hands`."""
    fall_through_critical(None, memory_cgroup)
    fall_through_critical(away, memory_cgroup)
