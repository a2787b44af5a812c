"""Who holds the memory, told by the real guard of real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.guard import Guard
from beds.hog import Hog

MIB = 1024 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")
def test_a_unit_that_grows_is_the_largest_at_the_next_question(free_port: int, tmp_path: Path) -> None:
    try:
        with (
            MemoryCgroup(2048 * MIB, "hungry") as cgroup,
            Guard(f"http://127.0.0.1:{free_port}", cgroup=f"/{cgroup.name}", home=tmp_path) as guard,
            Hog(cgroup.popen) as hog,
        ):
            unit = cgroup.path / "hungry.service"
            unit.mkdir()
            (unit / "cgroup.procs").write_text(str(hog.pid))
            hog.grow(1200 * MIB, 2000 * MIB)
            assert hog.wait(20)
            guard.wait(lambda: grown(guard, unit.name), 20, "it is told, with what it took")
            text = guard.cli("status").stdout
            assert f"GiB  {unit.name} (unit)" in text
            assert "\nconsumers " in text
            guard.wait(lambda: seen_in_file(guard), 30, "the file does not tell of what nobody looks at")
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def grown(guard: Guard, name: str) -> bool:
    """Whether the status tells of a consumer of this name that holds what the hog took."""
    status = guard.status()
    if "level" not in status:  # the guard has just started
        return False
    consumers = status["consumers"]
    assert consumers is not None, "the first who asks is told"
    return any(one["name"] == name and one["bytes"] > 1000 * MIB for one in consumers)


def seen_in_file(guard: Guard) -> bool:
    status = json.loads((guard.state / "public" / "status.json").read_text())
    return status["consumers"] is None and "only when somebody asks" in status["unknown"]["consumers"]
