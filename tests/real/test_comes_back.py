"""Promise 10: a guard that is killed comes back as it was, on both servers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from beds.clients import RetryClient
from beds.guard import Guard
from beds.handling import kept, state_of
from beds.yard import GIB, Yard, yard


def come_back(guard: Guard, server_pid: int) -> dict[str, Any]:
    """Start it again; its status once it guards."""
    guard.start()
    guard.wait_guarding(server_pid)
    return guard.status()


def ask_in_vain(place: Yard) -> None:
    """Big until it is condemned, big2 until it has been aborted once."""
    assert place.guard is not None
    with RetryClient(place.server.url, "big"):
        place.guard.wait_event("blob.condemned", 30)
    with RetryClient(place.server.url, "big2", interval_seconds=30.0):
        place.guard.wait_event("load.aborted", 30, names="big2:latest")


def test_10_a_killed_guard_comes_back_as_it_was(kind: str) -> None:
    """Kill -9 of the sentinel: pause, condemned blobs and budgets are as they were.

    Off is a guard that has lost its state file: it knows nothing any more.
    """
    with yard(kind, 1 * GIB, guarded=True) as place:
        guard = place.guard
        assert guard is not None
        ask_in_vain(place)
        assert guard.cli("pause", "10m").returncode == 0
        before = guard.status()
        guard.kill()
        # A kill that freed nothing can't be had at will, so one is entered in the books.
        was = replace(kept(guard), fruitless_kills=(time.clock_gettime(time.CLOCK_BOOTTIME) - 60.0,))
        assert state_of(guard).store(was) == ""
        state, aside = guard.runtime / "state", guard.home / "state-aside"
        state.rename(aside)

        lost = come_back(guard, place.server.pid)
        assert lost["mode"] == "enforce"
        assert lost["condemned"] == []
        guard.kill()

        aside.rename(state)
        after = come_back(guard, place.server.pid)
        assert (before["mode"], after["mode"]) == ("paused", "paused"), place.evidence()
        (old,), (new,) = before["condemned"], after["condemned"]
        assert (new["blob"], new["kills"]) == (old["blob"], old["kills"])
        assert abs(new["until"] - old["until"]) < 1.0
        assert guard.cli("resume").returncode == 0
        assert guard.status()["mode"] == "enforce"
        # By now it has written all of it itself.
        now = kept(guard)
        assert (now.strikes, now.fruitless_kills) == (was.strikes, was.fruitless_kills)
        assert len(now.strikes) == 1
        assert now.next_action_id >= was.next_action_id
