"""The state directory's disk is full, read-only, or never answers: the guard guards, and says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.disks import full_disk, hanging_disk, read_only_disk
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.handling import TERM_SECONDS, hup, term, wait_look, warned
from beds.hog import Hog
from beds.yard import GIB, MIB

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")

Disk = Callable[[Path], AbstractContextManager[Path]]


@pytest.fixture
def yard() -> Iterator[tuple[MemoryCgroup, FakeServer]]:
    """A cgroup of 1 GiB with a fake Ollama in it."""
    try:
        with MemoryCgroup(1 * GIB, "disk") as cgroup, FakeServer(cgroup.join_paths) as server:
            yield cgroup, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))


@pytest.mark.parametrize("disk", [full_disk, read_only_disk, hanging_disk])
def test_a_broken_state_disk_costs_a_few_warnings_and_the_records_and_nothing_else(
    disk: Disk, yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path
) -> None:
    """It starts, relieves its cgroup, takes a new file on HUP, and ends in time."""
    cgroup, server = yard
    guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
    with disk(guard.state), guard:
        guard.wait_guarding(server.pid)
        server.load("mid")
        wait_look(guard, lambda told: "idle" in [m["state"] for m in told["models"]], "mid is idle")
        with Hog(cgroup.popen) as hog:
            hog.grow(600 * MIB, 400 * MIB)
            guard.wait_event("model.unloaded", 10, names="mid:latest")
            assert hog.wait(10)
        guard.config.write_text(guard.config.read_text() + "[cap]\nsoft_max = 1\n")
        hup(guard)
        guard.wait_event("config.reloaded", 10)
        wait_look(guard, lambda told: told["ollama"]["cap"]["soft"] == 1, "the new cap is in force")
        for text in ("last good", "status file is stale", "nothing is recorded"):
            guard.wait(lambda: warned(guard, text), 12, text)  # noqa: B023 - used at once
        assert term(guard) < TERM_SECONDS, guard.tail()
    assert len(warned(guard, "last good")) == 2, guard.tail()
    assert len(warned(guard, "status file is stale")) == 1, guard.tail()
    assert len(warned(guard, "nothing is recorded")) == 1, guard.tail()
    assert guard.events("hands.restarted") == [], guard.tail()
