"""The sensors over trees that were recorded from real machines: see tests/corpus/README.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.sensors.cgroup import CgroupDomain
from ollama_guard.sentinel.sensors.cgtree import CgroupTrees
from unit.sensors.sensor_tree import GIB, MIB, Watcher, recording

IN_DOCKER = "5eed000000000000000000000000000000000000000000000000000000000001"


@dataclass(frozen=True, slots=True)
class Told:
    """What the files of one recording say, read and summed by hand.

    ``used`` is what can't be reclaimed, in bytes; ``pressure`` the two avg10 of the server's own cgroup.
    """

    tree: str
    kind: str
    server: int
    runners: frozenset[int]
    cgroup: str
    capacity: int
    used: int
    oom_kills: int
    pressure: tuple[float | None, float | None]


TOLD = (
    Told(
        tree="bed1",
        kind="hybrid",
        server=24340,
        runners=frozenset({24349, 24366}),
        cgroup="/ollama",
        capacity=700 * MIB,
        used=461877248 - 35344384 - 38486016 + 45056,
        oom_kills=0,
        pressure=(0.0, 0.0),
    ),
    Told(
        tree="bed2/outside",
        kind="hybrid",
        server=26548,
        runners=frozenset({26720}),
        cgroup=f"/docker/{IN_DOCKER}",
        capacity=512 * MIB,
        used=533405696 - 6873088 - 28246016,
        oom_kills=1,
        pressure=(8.87, 1.68),
    ),
    Told(
        tree="bed2/inside",  # Docker shows no v2 tree to a container on v1, so it has no PSI of its own there
        kind="v1",
        server=1,
        runners=frozenset({20}),
        cgroup=f"/docker/{IN_DOCKER}",
        capacity=512 * MIB,
        used=535638016 - 9277440 - 25288704,
        oom_kills=1,
        pressure=(None, None),
    ),
    Told(
        tree="bed3/unit",  # MemoryHigh is below MemoryMax, and crossed
        kind="v2",
        server=537,
        runners=frozenset({539}),
        cgroup="/system.slice/ollama.service",
        capacity=240 * MIB,
        used=264417280 - 4672,
        oom_kills=0,
        pressure=(68.97, 60.29),
    ),
    Told(
        tree="bed3/docker-outside",
        kind="v2",
        server=3020,
        runners=frozenset({3049}),
        cgroup=f"/system.slice/docker-{IN_DOCKER}.scope",
        capacity=64 * MIB,
        used=41046016 - 62384,
        oom_kills=0,
        pressure=(0.68, 0.66),
    ),
    Told(
        tree="bed3/docker-inside",
        kind="v2",
        server=1,
        runners=frozenset({7}),
        cgroup="/",
        capacity=64 * MIB,
        used=41725952 - 65536 - 53248 - 177064 + 65536,
        oom_kills=0,
        pressure=(0.56, 0.54),
    ),
)


@pytest.fixture(params=TOLD, ids=lambda told: told.tree)
def told(request: pytest.FixtureRequest) -> Told:
    found = request.param
    assert isinstance(found, Told)
    return found


@pytest.fixture
def watcher(told: Told, tmp_path: Path) -> Iterator[Watcher]:
    watcher = Watcher(recording(told.tree).copied_to(tmp_path), Policy())
    yield watcher
    watcher.sensors.close()


def test_a_recorded_server_is_found_with_its_runners_and_their_limit(told: Told, watcher: Watcher) -> None:
    snapshot = watcher.settle()
    (server,) = snapshot.servers
    assert (server.pid, server.cgroup) == (told.server, told.cgroup)
    assert {(r.pid, r.server_pid, r.proven) for r in snapshot.runners} == {
        (pid, told.server, True) for pid in told.runners
    }
    for runner in snapshot.runners:
        assert runner.domains == ("host", "container")
        assert runner.context_tokens == 2048
        assert (runner.blob or "").startswith("sha256:")
    host, container = snapshot.domains
    assert (host.reason, container.reason) == ("", "")
    assert container.capacity_bytes == told.capacity
    assert container.available_bytes == max(0, told.capacity - told.used)
    assert snapshot.blind == ()


def test_a_recorded_cgroup_is_placed_and_read(told: Told) -> None:
    tree = recording(told.tree)
    trees = CgroupTrees(str(tree.proc), str(tree.cgroup))
    assert trees.kind == told.kind
    domain = CgroupDomain(trees.place((tree.proc / f"{told.server}/cgroup").read_bytes()))
    try:
        reading = domain.read(1.0, 64 * GIB, 32 * GIB)
        assert reading is not None
        assert (reading.capacity_bytes, reading.oom_kills) == (told.capacity, told.oom_kills)
        assert (reading.psi_some_avg10, reading.psi_full_avg10) == told.pressure
        assert told.tree.endswith("inside") or reading.path.endswith(told.cgroup)
    finally:
        domain.close()
