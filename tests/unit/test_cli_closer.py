"""What only `doctor` makes of runners: orphans that the guard alone knows, and what Ollama lists of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.cli.closer import beside_gpu, told_orphans
from ollama_guard.core.machine import Running
from ollama_guard.core.model import LoadedModel, ServerReading, Snapshot

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
    assert told_orphans(status(runner), (), servers(), {}) == (orphan,)


def test_a_child_of_a_server_is_none_nor_one_that_was_seen(runner: int) -> None:
    assert told_orphans(status(runner), (), servers(os.getpid()), {}) == ()
    assert told_orphans(status(runner), (Running(runner, "small:latest", 7),), servers(), {}) == ()


def test_a_number_that_means_another_process_here_is_not_believed(runner: int) -> None:
    """A guard in a container tells the numbers of its own PID namespace."""
    assert told_orphans(status(runner, "sha256:" + "cd" * 32), (), servers(), {}) == ()
    assert told_orphans(status(runner, ""), (), servers(), {}) == ()
    assert told_orphans(status(2**30), (), servers(), {}) == ()
    assert told_orphans({"models": None}, (), servers(), {}) == ()


def test_a_look_that_was_not_over_makes_no_orphans(runner: int) -> None:
    """On a busy machine it may have missed the server of every one of them."""
    assert told_orphans(status(runner), (), servers(), {}, undecided=True) == ()


def test_a_child_of_an_ollama_that_this_look_did_not_find_is_none(tmp_path: Path) -> None:
    """Another configuration looks for servers elsewhere than the guard that runs."""
    spawn = (
        "import os, sys; print(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), flush=True);"
        " sys.stdin.read()"
    )
    model = f"/m/blobs/{BLOB.replace(':', '-')}"
    found = []
    for name in ("ollama", "other"):
        (tmp_path / name).symlink_to(sys.executable)
        argv = [
            str(tmp_path / name),
            "-c",
            spawn,
            sys.executable,
            "-c",
            "import sys; sys.stdin.read()",
            model,
        ]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            found.append((pid, told_orphans(status(pid), (), servers(), {})))
    (_, none), (pid, one) = found
    assert none == ()
    assert one == (Running(pid, "small:latest", 7, orphan=True),)


@pytest.mark.parametrize(("gpu", "beside"), [(True, 0), (False, 900)])
def test_without_a_gpu_no_part_of_a_model_is_in_its_memory(gpu: bool, beside: int) -> None:  # noqa: FBT001
    """Where Ollama can't read its runner's log it lists all of a model as the GPU's."""
    listed = LoadedModel("small:latest", BLOB, 900, 900, None)
    assert beside_gpu(listed, gpu=gpu) == beside
    assert beside_gpu(None, gpu=gpu) is None
