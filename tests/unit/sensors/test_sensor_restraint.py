"""A server that is held on purpose is told from one that hangs: by a debugger, or by a freezer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_guard.core.model import ServerReading, Snapshot
from ollama_guard.sentinel.sensors.processes import parse_status
from ollama_guard.sentinel.sensors.restraint import LOOK_SECONDS, is_frozen
from unit.sensors.sensor_tree import MOUNTS, Tree, Watcher, corpus

Watch = Callable[..., Watcher]
FREEZER_MOUNT = "31 23 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
V1 = "6:freezer:/docker/abc\n0::/docker/abc\n"


def only(snapshot: Snapshot) -> ServerReading:
    (server,) = snapshot.servers
    return server


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_server_that_nobody_holds_is_neither_traced_nor_frozen(tree: Tree, watch: Watch) -> None:
    tree.server()
    server = only(watch().settle())
    assert (server.traced, server.frozen) == (False, False)


def test_an_attached_debugger_is_seen_within_a_second_and_so_is_its_end(tree: Tree, watch: Watch) -> None:
    tree.server()
    watcher = watch()
    watcher.settle()
    path = tree.proc / "50/status"
    plain = path.read_text()
    path.write_text(f"{plain}TracerPid:\t4711\n")
    assert only(watcher.look(LOOK_SECONDS)).traced
    path.write_text(f"{plain}TracerPid:\t0\n")
    assert only(watcher.look(0.1)).traced, "the last look still counts"
    assert not only(watcher.look(LOOK_SECONDS)).traced


def test_a_v2_cgroup_that_is_frozen_is_seen_and_so_is_its_thaw(tree: Tree, watch: Watch) -> None:
    tree.server()
    events = tree.cgroup / "system.slice/ollama.service/cgroup.events"
    write(events, "populated 1\nfrozen 1\n")
    watcher = watch()
    assert only(watcher.settle()).frozen
    write(events, "populated 1\nfrozen 0\n")
    assert not only(watcher.look(LOOK_SECONDS)).frozen


@pytest.mark.parametrize(("state", "frozen"), [("FROZEN", True), ("FREEZING", True), ("THAWED", False)])
def test_a_v1_freezer_of_the_server_s_own_is_seen(
    tree: Tree, watch: Watch, state: str, *, frozen: bool
) -> None:
    tree.write("self/mountinfo", MOUNTS + FREEZER_MOUNT)
    tree.server(cgroup=V1)
    write(tree.cgroup / "freezer/docker/abc/freezer.state", f"{state}\n")
    assert only(watch().settle()).frozen is frozen


def test_a_container_that_moves_is_looked_for_where_it_is_now(tree: Tree, watch: Watch) -> None:
    tree.write("self/mountinfo", MOUNTS + FREEZER_MOUNT)
    tree.server(cgroup=V1)
    write(tree.cgroup / "freezer/docker/abc/freezer.state", "FROZEN\n")
    write(tree.cgroup / "freezer/docker/new/freezer.state", "THAWED\n")
    watcher = watch()
    assert only(watcher.settle()).frozen
    tree.write("50/cgroup", V1.replace("abc", "new"))
    assert not only(watcher.look(LOOK_SECONDS)).frozen


def test_freezer_files_that_can_t_be_read_freeze_nobody(tree: Tree, watch: Watch) -> None:
    tree.write("self/mountinfo", MOUNTS + FREEZER_MOUNT)
    tree.server(cgroup=V1)
    assert not only(watch().settle()).frozen


@pytest.mark.parametrize("text", [b"", b"frozen 10\n", b"notfrozen 1\n", b"THAWED\n", b"\xff"])
def test_what_says_nothing_of_a_freeze_is_none(text: bytes) -> None:
    assert not is_frozen(text)


def test_a_recorded_status_has_no_tracer() -> None:
    assert not parse_status(corpus("status-6.18.txt")).traced
