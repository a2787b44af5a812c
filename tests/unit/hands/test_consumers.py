"""Who holds the memory, told from laid-out cgroup trees; and when it is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ollama_guard.errors import GuardError
from ollama_guard.hands.consumers import Consumer, TooLong, named, top
from ollama_guard.hands.weighing import GAP_SECONDS, ON_DEMAND, Scales

MIB = 1024 * 1024
ID = "0123456789abcdef" * 4


class Tree:
    """A cgroup tree and a /proc of one's own."""

    def __init__(self, home: Path, version: int) -> None:
        self.version, self.proc, self.root = version, home / "proc", home / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.root.mkdir()
        kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory")
        line = f"35 31 0:32 / {self.root} rw - {kind} none {options}\n"
        (self.proc / "self" / "mountinfo").write_text(line)
        self.pids = 0
        self.cgroup("")

    def cgroup(self, path: str, anon: int = 0, shmem: int = 0, pids: tuple[int, ...] = ()) -> None:
        """A cgroup that holds so many MiB, all below it included; and page cache, which doesn't count."""
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        a, s = ("anon", "shmem") if self.version == 2 else ("total_rss", "total_shmem")
        stat = f"rss 5\nfile {900 * MIB}\n{a} {anon * MIB}\n{s} {shmem * MIB}\n"
        (folder / "memory.stat").write_text(stat)
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def process(self, pid: int, name: str, anon: int, shmem: int = 0) -> None:
        """A process that holds so many MiB."""
        (self.proc / str(pid)).mkdir()
        text = f"Name:\t{name}\nRssAnon:\t{anon * 1024} kB\nRssShmem:\t{shmem * 1024} kB\n"
        (self.proc / str(pid) / "status").write_text(text)

    def top(self, seconds: float = 10.0) -> list[tuple[str, str, int]]:
        """(name, kind, MiB) of the largest."""
        return [(one.name, one.kind, one.bytes // MIB) for one in top(seconds, str(self.proc))]


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """A v1 and a v2 tree."""
    return Tree(tmp_path, request.param)


def test_units_containers_and_what_is_outside_of_both_are_told_by_size(tree: Tree) -> None:
    tree.cgroup("system.slice", anon=1500)
    tree.cgroup("system.slice/ollama.service", anon=700, shmem=50)
    tree.cgroup(f"system.slice/docker-{ID}.scope", anon=600)
    tree.cgroup(f"docker/{ID[::-1]}", anon=20)
    tree.cgroup("odd", anon=300, pids=(7, 8, 9))
    tree.process(7, "stress", 100, 40)
    tree.process(8, "stress", 100, 40)
    tree.process(9, "kthreadd", 0)
    assert tree.top() == [
        ("ollama.service", "unit", 750),
        (ID[:12], "container", 600),
        ("stress", "process", 240),
        (ID[::-1][:12], "container", 20),
    ]


def test_a_unit_inside_a_unit_is_told_for_itself_and_not_twice(tree: Tree) -> None:
    """As a user's session: user@1000.service holds all of that user's programs."""
    tree.cgroup("user.slice/user@1000.service", anon=500)
    tree.cgroup("user.slice/user@1000.service/app.slice", anon=450)
    tree.cgroup("user.slice/user@1000.service/app.slice/browser.scope", anon=400)
    assert tree.top() == [("browser.scope", "unit", 400), ("user@1000.service", "unit", 100)]


def test_a_container_with_units_of_its_own_is_one_consumer(tree: Tree) -> None:
    tree.cgroup(f"machine.slice/libpod-{ID}.scope", anon=500)
    tree.cgroup(f"machine.slice/libpod-{ID}.scope/system.slice/db.service", anon=400)
    assert tree.top() == [(ID[:12], "container", 500)]


def test_only_the_largest_are_told(tree: Tree) -> None:
    for number in range(1, 20):
        tree.cgroup(f"a.slice/{number}.service", anon=number)
    assert [size for _, _, size in tree.top()] == list(range(19, 11, -1))


def test_without_any_tree_the_processes_tell(tmp_path: Path) -> None:
    tree = Tree(tmp_path, 2)
    (tree.proc / "self" / "mountinfo").write_text("")
    tree.process(7, "a b", 5)
    assert tree.top() == [("a b", "process", 5)]


def test_too_much_to_look_at_is_said_and_not_waited_for(tree: Tree) -> None:
    tree.cgroup("a.service", anon=5)
    with pytest.raises(TooLong):
        tree.top(seconds=-1.0)


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("cri-containerd-" + ID + ".scope", ("container", ID[:12])),
        ("lxc.payload.web", ("container", "web")),
        ("machine-my\\x2dbox.scope", ("container", "my-box")),
        ("session-3.scope", ("unit", "session-3.scope")),
        ("system.slice", None),
        ("abc", None),
    ],
)
def test_names_are_told_from_the_directory(directory: str, expected: tuple[str, str] | None) -> None:
    assert named(directory) == expected


def test_this_machine_can_be_looked_at_for_real() -> None:
    found = top(5.0)
    assert found
    assert all(one.bytes > 0 for one in found[:1])


class Looks:
    """Counts looks, and fails where told to."""

    def __init__(self) -> None:
        self.count = 0
        self.error: GuardError | None = None

    def __call__(self) -> tuple[Consumer, ...]:
        """One look."""
        self.count += 1
        if self.error:
            raise self.error
        return (Consumer("a.service", "unit", 5),)


def weighed(loop: Any, scales: Scales, looks: Looks) -> None:
    before = looks.count
    scales.step()
    loop.run_until(lambda: looks.count > before and scales.due_at() != 0.0 and not scales._working)


def test_nobody_looks_until_memory_is_short_and_then_every_few_seconds(loop: Any) -> None:
    looks = Looks()
    scales = Scales(loop.mailbox, loop.clock, looks)
    scales.pressed("ok")
    scales.step()
    assert (looks.count, scales.told()) == (0, (None, ON_DEMAND))
    scales.pressed("soft")
    weighed(loop, scales, looks)
    assert scales.told() == ([{"name": "a.service", "kind": "unit", "bytes": 5}], "")
    scales.step()
    assert looks.count == 1
    loop.now += GAP_SECONDS
    weighed(loop, scales, looks)
    assert looks.count == 2
    loop.now += 60.0
    assert scales.told() == (None, ON_DEMAND), "what is old says nothing"


def test_a_look_that_fails_keeps_its_reason(loop: Any) -> None:
    looks = Looks()
    looks.error = TooLong("too much")
    scales = Scales(loop.mailbox, loop.clock, looks)
    scales.pressed("hard")
    weighed(loop, scales, looks)
    assert scales.told() == (None, "they can't be looked for: too much")


def test_who_asks_again_within_seconds_gets_the_last_look_without_waiting(loop: Any) -> None:
    looks = Looks()
    scales = Scales(loop.mailbox, loop.clock, looks)
    scales.pressed("soft")
    weighed(loop, scales, looks)
    scales.pressed("ok")
    scales.fresh()
    assert looks.count == 1
