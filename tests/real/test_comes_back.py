"""Promise 10: a guard that is killed comes back as it was, on both servers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from beds.clients import RetryClient
from beds.guard import Guard
from beds.yard import GIB, yard
from ollama_guard.core.state import Durable
from ollama_guard.sentinel.statemap import StateMap

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def kept(guard: Guard) -> Durable:
    """What the state file holds now."""
    statemap = StateMap(guard.runtime / "state", BOOT_ID.read_text().strip())
    durable, reason = statemap.load()
    statemap.close()
    assert durable is not None, reason
    return durable


def come_back(guard: Guard, server_pid: int) -> dict[str, Any]:
    """Start it again; its status once it guards."""
    guard.start()
    guard.wait_guarding(server_pid)
    return guard.status()


def test_10_a_killed_guard_comes_back_as_it_was(kind: str) -> None:
    """Kill -9 of the sentinel: pause, condemned blobs and budgets are as they were.

    Off is a guard that has lost its state file: it knows nothing any more.
    """
    with yard(kind, 1 * GIB, guarded=True) as place:
        guard = place.guard
        assert guard is not None
        with RetryClient(place.server.url, "big"):
            guard.wait_event("blob.condemned", 30)
        assert guard.cli("pause", "10m").returncode == 0
        before = guard.status()
        assert before["mode"] == "paused"
        assert len(before["condemned"]) == 1
        guard.kill()
        was, state, aside = kept(guard), guard.runtime / "state", guard.home / "state-aside"
        shutil.move(state, aside)

        lost = come_back(guard, place.server.pid)
        assert lost["mode"] == "enforce"
        assert lost["condemned"] == []
        guard.kill()

        shutil.move(aside, state)
        after = come_back(guard, place.server.pid)
        assert after["mode"] == "paused", place.evidence()
        assert [c["blob"] for c in after["condemned"]] == [c["blob"] for c in before["condemned"]]
        assert abs(after["condemned"][0]["until"] - before["condemned"][0]["until"]) < 1.0
        assert after["condemned"][0]["kills"] == before["condemned"][0]["kills"]
        now = kept(guard)
        assert (now.pause_until_at, now.strikes, now.fruitless_kills) == (
            was.pause_until_at, was.strikes, was.fruitless_kills,
        )  # fmt: skip
        assert now.strikes
        assert now.next_action_id >= was.next_action_id
        assert guard.cli("resume").returncode == 0
        assert guard.status()["mode"] == "enforce"
