"""The ledger end to end: the real guard, and a fake Ollama that takes real memory."""

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
from beds.handling import TERM_SECONDS, look, term, wait_look, warned
from beds.hog import Hog
from beds.http import HttpFailure, request
from beds.process import anon_bytes
from beds.yard import MIB
from ollama_guard.core.footprint import Footprint
from ollama_guard.core.ledger import rows_of
from ollama_guard.core.units import bytes_text
from ollama_guard.store.footprints import FootprintStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups and mounts")

MODELS = ("fat=450MiB,rate=600", "slim=60MiB,rate=400")
LIMIT_BYTES = 1024 * MIB


@pytest.fixture
def yard() -> Iterator[tuple[MemoryCgroup, FakeServer]]:
    """A cgroup of 1 GiB with a fake Ollama in it."""
    try:
        with MemoryCgroup(LIMIT_BYTES, "ledger") as cgroup, FakeServer(cgroup.join_paths, MODELS) as server:
            yield cgroup, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def blob_of(server: FakeServer, model: str) -> str:
    """The digest by which the ledger knows a model."""
    return f"sha256:{server.fake.blob(model).removeprefix('sha256:')}"


def rows(guard: Guard) -> dict[str, Footprint]:
    """The rows on the disk, by blob."""
    if not (guard.state / "footprints.sqlite").exists():
        return {}
    ledger = FootprintStore(guard.state / "footprints.sqlite").load().ledger
    return {row.key.blob: row for row in rows_of(ledger)}


def wait_row(guard: Guard, blob: str, check: Callable[[Footprint], object], what: str) -> Footprint:
    """Wait until the row of a blob is such that ``check`` holds."""
    guard.wait(lambda: (row := rows(guard).get(blob)) is not None and check(row), 30, what)
    return rows(guard)[blob]


def wait_state(guard: Guard, name: str, state: str) -> None:
    wait_look(guard, lambda told: (name, state) in [(m["name"], m["state"]) for m in told["models"]], state)


def test_a_load_is_measured_kept_over_a_restart_and_judges_the_next_one(
    yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path
) -> None:
    """Load, use, unload; then a restarted guard judges the next load by what the first one took."""
    cgroup, server = yard
    blob = blob_of(server, "fat")
    guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
    with guard:
        guard.wait_guarding(server.pid)
        began = time.monotonic()
        server.load("fat")
        took = time.monotonic() - began
        wait_state(guard, "fat:latest", "idle")
        loaded = anon_bytes(server.runner_pids()["fat"])
        request(server.url, "POST", "/api/generate", {"model": "fat", "prompt": "hi", "stream": False})
        wait_row(guard, blob, lambda row: row.anon_bytes, "fat is measured")
        wait_state(guard, "fat:latest", "idle")
        done = guard.tell("unload", "fat")
        assert done.returncode == 0, done.stderr
    row = rows(guard)[blob]
    assert row.anon_bytes == pytest.approx(loaded, rel=0.1)
    assert row.load_seconds == pytest.approx(took, abs=1.0)
    assert (row.loads, row.answers_cut) == (1, 0)
    assert row.uses in (2, 3), "the load, the request; on a busy machine a load works on after it is listed"
    assert row.peak_bytes is not None
    assert row.peak_bytes >= 0.95 * loaded

    with guard, Hog(cgroup.popen) as hog:
        hog.grow(500 * MIB, 1000 * MIB)
        assert hog.wait(10)
        guard.wait_guarding(server.pid)
        wait_ledger(guard)
        with pytest.raises(HttpFailure, match="HTTP 500"):
            server.load("fat")
        aborted = guard.wait_event("load.aborted", 10, names="fat:latest")
        (decided,) = [e["message"] for e in guard.events("decision.made", rung="abort_load")]
        assert aborted
    assert f"of its {bytes_text(row.anon_bytes or 0)} (as measured before)" in decided
    assert rows(guard)[blob].loads == 1


def wait_ledger(guard: Guard) -> None:
    """Until the sentinel has had the time to be told what is kept: it is sent with the first beats."""
    guard.wait(lambda: look(guard)["guard"]["pss_bytes"] is not None, 10, "hands have measured themselves")


@pytest.mark.parametrize("what", ["corrupt", "newer"])
def test_a_bad_ledger_is_told_once_and_the_guard_learns_on(
    yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path, what: str
) -> None:
    cgroup, server = yard
    guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
    path = guard.state / "footprints.sqlite"
    FootprintStore(path).save([], 1.0)
    if what == "newer":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes(b"\0garbage" * 4096)
    before = path.read_bytes()
    with guard:
        guard.wait_guarding(server.pid)
        server.load("slim")
        if what == "corrupt":
            wait_row(guard, blob_of(server, "slim"), lambda row: row.anon_bytes, "slim is measured")
        else:
            wait_state(guard, "slim:latest", "idle")
    assert len(warned(guard, "footprint ledger")) == 1, guard.tail()
    (kept,) = [path] if what == "newer" else [p for p in guard.state.glob("*.bad-*") if "-wal" not in p.name]
    assert kept.read_bytes() == before


def test_both_processes_killed_in_the_middle_lose_no_row_that_was_written(
    yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path
) -> None:
    """Hands with -9, then the sentinel with -9: the row is there, and is learnt on."""
    cgroup, server = yard
    blob = blob_of(server, "slim")
    guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
    with guard:
        guard.wait_guarding(server.pid)
        server.load("slim")
        first = wait_row(guard, blob, lambda row: row.anon_bytes, "slim is measured")
        os.kill(guard.hands_pid, signal.SIGKILL)
        guard.wait_event("hands.restarted", 10)
        wait_look(guard, lambda told: told["ollama"]["alive"], "the next hands have looked")
        guard.kill()
        assert rows(guard)[blob] == first
        guard.start()
        guard.wait_guarding(server.pid)
        wait_look(guard, lambda told: told["ollama"]["alive"], "hands have looked")
        for name in ("unload", "load"):
            getattr(server.fake, name)("slim")
        wait_row(guard, blob, lambda row: row.loads > first.loads, "the second load is learnt")
    assert not warned(guard, "footprint ledger"), guard.tail()


Disk = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.parametrize("disk", [full_disk, read_only_disk, hanging_disk])
def test_a_broken_disk_costs_the_ledger_one_warning_and_the_guard_nothing(
    disk: Disk, yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path
) -> None:
    """What is learnt still counts until the guard ends, and that takes no longer than ever."""
    cgroup, server = yard
    guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
    with disk(guard.state), guard:
        guard.wait_guarding(server.pid)
        server.load("fat")
        wait_state(guard, "fat:latest", "idle")
        guard.wait(lambda: warned(guard, "footprint ledger"), 20, "the warning")
        assert guard.tell("unload", "fat").returncode == 0
        with Hog(cgroup.popen) as hog:
            hog.grow(500 * MIB, 1000 * MIB)
            assert hog.wait(10)
            with pytest.raises(HttpFailure, match="HTTP 500"):
                server.load("fat")
            guard.wait_event("load.aborted", 10, names="fat:latest")
        assert "(as measured before)" in guard.events("decision.made", rung="abort_load")[-1]["message"]
        assert term(guard) < TERM_SECONDS, guard.tail()
    assert len(warned(guard, "footprint ledger")) == 1, guard.tail()
