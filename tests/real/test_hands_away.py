"""The kill rung needs no `hands`: they may be dead, stopped, or stuck in reclaim in every lane.

How fast the kill is, is for benchmarks/kill_latency.py to measure; here it must only come before the kernel's
own, on both servers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from beds.clients import StreamingClient
from beds.guard import Guard
from beds.process import alive
from beds.thrash import FRESH_PAGES, Pester, Thrash
from beds.yard import GIB, MIB, Told, facts, unguarded, yard

# Seconds that a promise without a time limit may take here.
AMPLE_SECONDS = 15.0
# How long `hands` have stalled before the story begins: dozens of waits for a page.
STALL_SECONDS = 0.2
# More than tiny holds: whatever the hog's speed just then, tiny alone can't reach the target.
MORE_THAN_TINY = '[policy]\nmin_reclaim = "256MiB"\n'


@contextlib.contextmanager
def killed(guard: Guard) -> Iterator[None]:
    """Kill -9, and again whenever they are started again."""
    over, kills = threading.Event(), 0

    def kill_for_ever() -> None:
        nonlocal kills
        while not over.wait(0.02):
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
        thrash.wait_stalled(guard, STALL_SECONDS, 2 * AMPLE_SECONDS)
        before = thrash.stalled_seconds()
        yield
        assert alive(pid), "they were to be slowed, not killed"
        assert thrash.stalled_seconds() > before, "they stalled during the story too"


AWAY: dict[str, Callable[[Guard], contextlib.AbstractContextManager[None]]] = {
    "killed": killed,
    "stopped": stopped,
    "slowed": slowed,
}


def fall_through_critical(kind: str, away: str = "", *, guarded: bool) -> Told:
    """Mid and tiny answer, a hog takes the rest and more; ``away``: what has become of `hands` by then."""
    with (
        yard(kind, 1 * GIB, guarded=guarded, config=MORE_THAN_TINY, env=FRESH_PAGES) as place,
        contextlib.ExitStack() as stack,
    ):
        clients = {}
        for model in ("tiny", "mid"):
            place.server.load(model)
            clients[model] = stack.enter_context(StreamingClient(place.server.url, model, 4000))
            assert clients[model].wait_streaming()
            place.wait_state(model, "busy")
        runners = place.server.runner_pids()
        assert runners.keys() == {"tiny", "mid"}
        if place.guard is not None:
            stack.enter_context(AWAY[away](place.guard))
        hog = stack.enter_context(place.hog())
        hog.grow(450 * MIB, 400 * MIB)
        told: Told = {"hog finished": hog.wait(AMPLE_SECONDS), "oom kills": place.cgroup.oom_kills()}
        if place.guard is not None:
            told["killed"] = place.guard.wait_event("runner.killed", AMPLE_SECONDS)["names"]
            told["kills"] = len(place.guard.events("runner.killed"))
        told["alive"] = {model for model, pid in runners.items() if alive(pid)}
        told["answers"] = {model: client.answer.summary() for model, client in clients.items()}
        told["evidence"] = place.evidence()
        return told


@pytest.mark.parametrize("away", AWAY)
def test_7_the_kill_rung_acts_while_hands_are_away(kind: str, away: str) -> None:
    """At critical exactly the runner that suffices dies, whatever has become of `hands`."""
    off = unguarded(fall_through_critical, kind)
    assert off["oom kills"] != 0, facts(off)
    told = fall_through_critical(kind, away, guarded=True)
    # First, since the kernel's favourite is mid too: a death without a decision is its doing.
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert told["killed"] == "mid:latest", facts(told)
    assert told["kills"] == 1, facts(told)
    assert told["alive"] == {"tiny"}, facts(told)
