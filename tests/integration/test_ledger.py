"""The ledger end to end: the real guard, a fake Ollama whose models cost more than their files say."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.disks import full_disk, hanging_disk, read_only_disk
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.handling import term, wait_look, warned
from beds.http import request
from beds.process import alive
from beds.yard import MIB
from ollama_guard.core.footprint import Footprint
from ollama_guard.core.ledger import rows_of
from ollama_guard.store.footprints import FootprintStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups and mounts")

# `fat` says 200 MiB on the disk and takes 460 MiB: its cache is what nobody foresees (no KV heads told).
MODELS = ("fat=200MiB,kv=131072,rate=600", "slim=60MiB,kv=2048,rate=400")
LIMIT_BYTES = 1024 * MIB


@pytest.fixture
def yard() -> Iterator[tuple[MemoryCgroup, FakeServer]]:
    """A cgroup of 1 GiB with a fake Ollama in it."""
    try:
        with MemoryCgroup(LIMIT_BYTES, "ledger") as cgroup, FakeServer(cgroup.join_paths, MODELS) as server:
            yield cgroup, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def rows(guard: Guard) -> dict[str, Footprint]:
    """The rows on the disk, by blob."""
    if not (guard.state / "footprints.sqlite").exists():
        return {}
    ledger = FootprintStore(guard.state / "footprints.sqlite").load().ledger
    return {row.key.blob: row for row in rows_of(ledger)}


def wait_row(guard: Guard, blob: str, check: Callable[[Footprint], object], what: str) -> Footprint:
    """Wait until the row of a blob is such that ``check`` holds."""
    guard.wait(lambda: (row := rows(guard).get(blob)) is not None and check(row), 15, what)
    return rows(guard)[blob]


def wait_state(guard: Guard, name: str, state: str) -> None:
    wait_look(guard, lambda told: (name, state) in [(m["name"], m["state"]) for m in told["models"]], state)


def anon_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def test_a_load_is_measured_kept_over_a_restart_and_judges_the_next_one(
    yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path
) -> None:
    """Load, use, unload; then a restarted guard aborts what the file on disk alone would let through."""
    cgroup, server = yard
    blob = server.fake.blob("fat")
    guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
    with guard:
        guard.wait_guarding(server.pid)
        began = time.monotonic()
        server.load("fat")
        took = time.monotonic() - began
        wait_state(guard, "fat:latest", "idle")
        loaded = anon_bytes(server.runner_pids()["fat"])
        request(server.url, "POST", "/api/generate", {"model": "fat", "prompt": "hello", "stream": False}, timeout=60)
        wait_state(guard, "fat:latest", "busy")
        wait_state(guard, "fat:latest", "idle")
        done = guard.cli("unload", "fat", "--config", str(guard.config))
        assert done.returncode == 0, done.stderr
    row = rows(guard)[blob]
    assert row.anon_bytes == pytest.approx(loaded, rel=0.1)
    assert row.load_seconds == pytest.approx(took, abs=1.0)
    assert (row.loads, row.uses, row.answers_cut) == (1, 2, 0)
    assert row.peak_bytes is not None
    assert row.peak_bytes >= 0.95 * loaded

    taken = LIMIT_BYTES - loaded  # so much is gone that it does not fit beside it
    with guard:
        guard.wait_guarding(server.pid)
        with cgroup_filled(cgroup, taken):
            with pytest.raises(OSError, match="500"):
                server.load("fat")
        aborted = guard.wait_event("load.aborted", 10)
        decided = [e["message"] for e in guard.events("decision.made") if "fat" in e["message"]]
    assert "fat" in aborted["names"]
    assert "(as measured before)" in decided[-1]
