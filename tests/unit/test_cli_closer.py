"""Orphans that only the running guard can know: it has seen the server that they had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ollama_guard.cli.closer import told_orphans
from ollama_guard.core.machine import Running
from ollama_guard.core.model import ServerReading, Snapshot

BLOB = "sha256:" + "ab" * 32
HOLD = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def runner() -> Iterator[int]:
    """A process with a runner's command line, whose parent is this test."""
    argv = [sys.executable, "-c", HOLD, "--model", f"/m/blobs/{BLOB.replace(':', '-')}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def status(pid: int, blob: str = BLOB) -> dict[str, object]:
    return {"models": [{"pid": pid, "blob": blob, "name": "small:latest", "resident_bytes": 7}]}


def servers(*pids: int) -> Snapshot:
    return Snapshot(0.0, 0.0, servers=tuple(ServerReading(pid, 1, 0, "/", "proof") for pid in pids))


def test_a_runner_whose_parent_is_no_server_is_an_orphan(runner: int) -> None:
    orphan = Running(runner, "small:latest", 7, orphan=True)
    assert list(told_orphans(status(runner), (), servers())) == [orphan]


def test_a_child_of_a_server_is_none_nor_one_that_was_seen(runner: int) -> None:
    assert list(told_orphans(status(runner), (), servers(os.getpid()))) == []
    assert list(told_orphans(status(runner), (Running(runner, "small:latest", 7),), servers())) == []


def test_a_number_that_means_another_process_here_is_not_believed(runner: int) -> None:
    """A guard in a container tells the numbers of its own PID namespace."""
    assert list(told_orphans(status(runner, "sha256:" + "cd" * 32), (), servers())) == []
    assert list(told_orphans(status(runner, ""), (), servers())) == []
    assert list(told_orphans(status(2**30), (), servers())) == []
    assert list(told_orphans({"models": None}, (), servers())) == []
