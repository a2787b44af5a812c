"""The ledger on a real Ollama: what a load took is known, and the next one is judged by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from beds.cgroups import MemoryCgroup
from beds.http import HttpFailure
from beds.ollama_install import Installation
from beds.process import anon_bytes
from beds.yard import GIB, MIB, Yard, yard
from ollama_guard.core.footprint import Footprint
from ollama_guard.core.ledger import rows_of
from ollama_guard.store.footprints import FootprintStore

LIMIT_BYTES = 1 * GIB
# Below it a container of 1 GiB is at hard; tiny's file and cache are 139 MiB, and its runner takes 190 MiB.
HARD_BYTES = 128 * MIB
ROOM_BYTES = 165 * MIB


def rows(place: Yard) -> list[Footprint]:
    """What the guard's ledger holds on the disk."""
    assert place.guard is not None
    path = place.guard.state / "footprints.sqlite"
    return list(rows_of(FootprintStore(path).load().ledger)) if path.exists() else []


def load_into_little_room(place: Yard) -> bool:
    """Whether tiny is let in while a hog leaves more room than its file says, and less than it takes."""
    with place.hog() as hog:
        hog.grow(place.cgroup.available() - HARD_BYTES - ROOM_BYTES, 500 * MIB)
        assert hog.wait(20)
        try:
            place.server.load("tiny")
        except HttpFailure:
            return False
        return True


def test_a_real_load_is_measured_and_the_next_one_is_judged_by_it(
    ollama_installation: Installation, memory_cgroup: Callable[[int], MemoryCgroup]
) -> None:
    """Within 10 % of RssAnon; and a load that only the measurement shows not to fit is aborted at birth."""
    assert ollama_installation
    memory_cgroup(64 * MIB)
    with yard("real", LIMIT_BYTES, guarded=True) as place:
        # A busy machine may see it below hard before it is done, which is another reason to end it.
        assert any(load_into_little_room(place) for _ in range(3)), "by the estimate alone it seems to fit"

    with yard("real", LIMIT_BYTES, guarded=True) as place:
        guard = place.guard
        assert guard is not None
        place.server.load("tiny")
        taken = anon_bytes(place.server.runner_pids()["tiny"])
        guard.wait(
            lambda: [row.anon_bytes for row in rows(place)] not in ([], [None]), 15, "tiny is measured"
        )
        (row,) = rows(place)
        assert row.anon_bytes == pytest.approx(taken, rel=0.1)
        assert row.load_seconds is not None
        assert 0.05 < row.load_seconds < 20
        place.wait_state("tiny", "idle")
        assert guard.tell("unload", "tiny").returncode == 0
        assert place.wait_count(0, 10)
        assert not load_into_little_room(place)
        guard.wait_event("load.aborted", 10, names="tiny:latest, tiny-alias:latest")
        (decided,) = [e["message"] for e in guard.events("decision.made", rung="abort_load")]
        assert "(as measured before)" in decided
