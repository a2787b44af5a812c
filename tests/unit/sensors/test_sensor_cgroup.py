"""The container domain: v1, v2 and hybrid trees, ancestors, page cache, and cgroups that go away."""

import os
from collections.abc import Callable

import pytest

from ollama_guard.cgmounts import Mount, parse_mounts
from ollama_guard.core.model import DomainReading
from ollama_guard.sentinel.sensors.cgroup import CgroupDomain, RefaultWatch
from ollama_guard.sentinel.sensors.cgtree import CgroupTrees, is_under
from unit.sensors.sensor_tree import GIB, MIB, MOUNTS, Tree, Watcher, corpus

RECLAIMABLE = 425 * MIB
"""Of the recorded v2 memory.stat: see test_sensor_parsers."""
HYBRID = (
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def domain_of(tree: Tree, membership: str) -> CgroupDomain:
    trees = CgroupTrees(str(tree.proc), str(tree.cgroup))
    return CgroupDomain(trees.place(membership.encode()))


def read(domain: CgroupDomain, now: float = 1.0) -> DomainReading | None:
    return domain.read(now, 16 * GIB, 8 * GIB)


def test_available_is_the_limit_less_what_can_not_be_reclaimed(tree: Tree) -> None:
    tree.limit("/a", max=4 * GIB, high="max", current=3 * GIB)
    reading = read(domain_of(tree, "0::/a\n"))
    assert reading is not None
    assert reading.capacity_bytes == 4 * GIB
    assert reading.available_bytes == GIB + RECLAIMABLE
    assert (reading.name, reading.oom_kills, reading.refaults) == ("container", 3, 5000)


def test_high_counts_where_it_is_below_max(tree: Tree) -> None:
    tree.limit("/a", max=4 * GIB, high=3 * GIB, current=2 * GIB)
    reading = read(domain_of(tree, "0::/a\n"))
    assert reading is not None
    assert (reading.capacity_bytes, reading.available_bytes) == (3 * GIB, GIB + RECLAIMABLE)


def test_the_tightest_ancestor_is_the_domain(tree: Tree) -> None:
    tree.limit("/top", max=6 * GIB, high="max", current=6 * GIB - RECLAIMABLE)
    tree.limit("/top/mid", max="max", high="max", current=5 * GIB)
    tree.limit("/top/mid/own", max=4 * GIB, high="max", current=GIB)
    reading = read(domain_of(tree, "0::/top/mid/own\n"))
    assert reading is not None
    assert reading.path.endswith("/top")
    assert (reading.capacity_bytes, reading.available_bytes) == (6 * GIB, 2 * RECLAIMABLE)


def test_never_more_than_the_host_has_and_never_less_than_nothing(tree: Tree) -> None:
    tree.limit("/a", max=12 * GIB, high="max", current=0)
    assert getattr(read(domain_of(tree, "0::/a\n")), "available_bytes", None) == 8 * GIB
    tree.limit("/a", max=GIB, high="max", current=3 * GIB)
    assert getattr(read(domain_of(tree, "0::/a\n")), "available_bytes", None) == 0


@pytest.mark.parametrize("limit", ["max", 16 * GIB, 2**62])
def test_no_limit_below_the_hosts_memory_is_no_domain(tree: Tree, limit: int | str) -> None:
    tree.limit("/a", max=limit, high="max", current=GIB)
    assert read(domain_of(tree, "0::/a\n")) is None


def test_active_cache_counts_as_used_while_it_is_read_back(tree: Tree) -> None:
    """And the second look, a millisecond later, agrees with the first."""
    stat = corpus("memory.stat-v2-6.1.txt").decode()
    tree.limit("/a", max=4 * GIB, high="max", current=3 * GIB)
    domain = domain_of(tree, "0::/a\n")
    calm = read(domain, 1.0)
    tree.limit(
        "/a",
        stat=stat.replace("refault_file 5000", "refault_file 9000"),
        max=4 * GIB,
        high="max",
        current=3 * GIB,
    )
    first, second, later = read(domain, 2.0), read(domain, 2.001), read(domain, 4.5)
    assert calm is not None
    assert first is not None
    assert calm.available_bytes == GIB + RECLAIMABLE
    assert first.available_bytes == GIB + RECLAIMABLE - 112 * MIB
    assert (calm.reread_bytes, first.reread_bytes) == (None, 112 * MIB)
    assert second == first
    assert later == DomainReading(
        "container", 4 * GIB, GIB + RECLAIMABLE, oom_kills=3, refaults=9000, path=first.path
    )


def test_what_a_reclaim_could_give_back_is_told_only_where_it_can_be_asked_for(tree: Tree) -> None:
    """Page cache that counts as used while it is read back, on a kernel that has ``memory.reclaim``.

    That its mode lets us write it is not enough: the third is a pipe, which can't be opened without a reader.
    """
    stat = corpus("memory.stat-v2-6.1.txt").decode()
    thrashing = stat.replace("refault_file 5000", "refault_file 9000")
    for name, able in (("a", True), ("b", False), ("c", False)):
        folder = tree.limit(f"/{name}", max=4 * GIB, high="max", current=3 * GIB)
        if able:
            (folder / "memory.reclaim").write_text("kept")
        elif name == "c":
            os.mkfifo(folder / "memory.reclaim")
        domain = domain_of(tree, f"0::/{name}\n")
        calm = read(domain, 1.0)
        tree.limit(f"/{name}", stat=thrashing, max=4 * GIB, high="max", current=3 * GIB)
        hot = read(domain, 2.0)
        assert calm is not None
        assert hot is not None
        assert (calm.cache_bytes, hot.cache_bytes) == (None, 112 * MIB if able else None)
    assert (tree.cgroup / "a/memory.reclaim").read_text() == "kept", "a look changes nothing"


def test_a_few_refaults_a_second_are_no_thrash() -> None:
    watch = RefaultWatch()
    assert not any(watch.rising(100 * tick, float(tick)) for tick in range(20))
    assert watch.rising(100_000, 20.0)
    assert not watch.rising(None, 20.1)


def test_v1_uses_the_totals_and_knows_its_no_limit(tree: Tree) -> None:
    tree.write("self/mountinfo", HYBRID)
    own, top = tree.cgroup / "memory/docker/abc", tree.cgroup / "memory/docker"
    own.mkdir(parents=True)
    for directory, limit in ((own, 2 * GIB), (top, 9223372036854771712)):
        (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (directory / "memory.usage_in_bytes").write_text(f"{GIB}\n")
        (directory / "memory.stat").write_text(
            "inactive_file 1\nactive_file 1\ntotal_inactive_file 1048576\ntotal_active_file 2097152\n"
            "total_dirty 524288\ntotal_writeback 524288\n"
        )
        (directory / "memory.oom_control").write_bytes(corpus("memory.oom_control-v1.txt"))
    twin = tree.cgroup / "unified/docker/abc"
    twin.mkdir(parents=True)
    (twin / "memory.pressure").write_text("some avg10=7.00 avg60=0.00 avg300=0.00 total=1\n")
    reading = read(domain_of(tree, "4:memory:/docker/abc\n0::/docker/abc\n"))
    assert reading is not None
    assert (reading.capacity_bytes, reading.available_bytes) == (2 * GIB, GIB + 2 * MIB)
    assert (reading.oom_kills, reading.psi_some_avg10) == (0, 7.0)


def test_v1_heeds_the_limit_of_an_ancestor_that_a_container_can_not_see(tree: Tree) -> None:
    tree.write(
        "self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    )
    own = tree.cgroup / "memory"
    own.mkdir()
    (own / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (own / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    (own / "memory.stat").write_text(
        f"hierarchical_memory_limit {2 * GIB}\ntotal_inactive_file 0\ntotal_active_file 0\n"
    )
    reading = read(domain_of(tree, "4:memory:/docker/abc\n"))
    assert reading is not None
    assert (reading.capacity_bytes, reading.available_bytes) == (2 * GIB, GIB)


@pytest.mark.parametrize(
    ("membership", "said"),
    [
        ("0::/../sibling\n", "outside of what is mounted"),
        ("0::/gone (deleted)\n", "was removed"),
        ("nonsense", "in no memory cgroup"),
        ("", "in no memory cgroup"),
    ],
)
def test_a_cgroup_that_can_not_be_seen_is_no_domain_and_says_why(
    tree: Tree, membership: str, said: str
) -> None:
    domain = domain_of(tree, membership)
    assert said in domain.place.reason
    assert read(domain) is None


def test_a_private_namespace_shows_its_own_cgroup_as_the_root(tree: Tree) -> None:
    tree.limit("/", max=2 * GIB, high="max", current=GIB)
    reading = read(domain_of(tree, "0::/\n"))
    assert reading is not None
    assert reading.capacity_bytes == 2 * GIB


def test_a_bound_subtree_is_found_below_its_own_root(tree: Tree) -> None:
    tree.write("self/mountinfo", MOUNTS.replace("0:27 / ", "0:27 /docker/abc "))
    tree.limit("/inner", max=2 * GIB, high="max", current=GIB)
    assert read(domain_of(tree, "0::/docker/abc/inner\n")) is not None
    assert read(domain_of(tree, "0::/docker/abcd\n")) is None


def test_a_vanished_cgroup_is_unknown_and_then_found_again(tree: Tree) -> None:
    directory = tree.limit("/a", max=4 * GIB, high="max", current=3 * GIB)
    domain = domain_of(tree, "0::/a\n")
    assert getattr(read(domain), "available_bytes", None) is not None
    domain.close()  # a removed cgroup's descriptors fail; plain files would go on
    hidden = directory.rename(tree.cgroup / "hidden")
    gone = read(domain)
    assert gone is not None
    assert gone.available_bytes is None
    assert "No such file" in gone.reason
    hidden.rename(directory)
    assert getattr(read(domain), "available_bytes", None) == GIB + RECLAIMABLE


@pytest.mark.parametrize("broken", ["memory.stat", "memory.current", "memory.max"])
def test_a_limited_cgroup_with_one_unreadable_file_is_unknown_never_zero(tree: Tree, broken: str) -> None:
    directory = tree.limit("/a", max=4 * GIB, high=5 * GIB, current=3 * GIB)
    (directory / broken).write_text("garbage")
    reading = read(domain_of(tree, "0::/a\n"))
    assert reading is not None
    assert reading.available_bytes is None
    assert broken in reading.reason


def test_mount_points_with_spaces_are_read() -> None:
    assert parse_mounts(b"1 2 0:3 / /a\\040b rw - cgroup2 none rw\n") == (Mount(2, "/", "/a b"),)


def test_a_cgroup_prefix_is_compared_by_whole_names() -> None:
    assert is_under("/a/b", "/a")
    assert is_under("/a", "a/")
    assert is_under("/anything", "/")
    assert not is_under("/ab", "/a")


def test_two_servers_in_limited_cgroups_are_two_domains_that_keep_their_names(
    tree: Tree, watch: Callable[..., Watcher]
) -> None:
    tree.limit("/one", max=4 * GIB, high="max", current=GIB)
    tree.limit("/two", max=2 * GIB, high="max", current=GIB)
    tree.server(50, cgroup="0::/one\n")
    tree.server(60, cgroup="0::/two\n")
    watcher = watch()
    names = {d.name: d.capacity_bytes for d in watcher.settle().domains}
    assert names == {"host": 16 * GIB, "container": 4 * GIB, "container:two": 2 * GIB} or names == {
        "host": 16 * GIB, "container": 2 * GIB, "container:one": 4 * GIB,
    }  # fmt: skip
    survivor = next(d for d in watcher.look().domains if d.name.startswith("container:"))
    tree.kill(50 if survivor.path.endswith("two") else 60)
    assert survivor.name in {d.name for d in watcher.look().domains}
