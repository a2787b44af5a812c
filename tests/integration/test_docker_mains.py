"""A container is Ollama's own when it is its first process, or the child of one that only reaps."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beds.fake_docker import FakeDocker, container
from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeReading
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime
from ollama_guard.hands.remembered import RememberedLimits

SECONDS = 10.0
ALL = ("stop", "start", "limit")


@contextlib.contextmanager
def parent_and_children(folder: Path, name: str) -> Iterator[tuple[int, list[int]]]:
    """A shell that is called so, and two that it has started."""
    program = folder / name
    shutil.copy("/bin/sh", program)
    script = "sleep 60 & sleep 60 & wait"
    with subprocess.Popen([str(program), "-c", script], start_new_session=True) as shell:
        listed = Path(f"/proc/{shell.pid}/task/{shell.pid}/children")
        deadline = time.monotonic() + SECONDS
        try:
            while len(children := listed.read_text().split()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield shell.pid, [int(child) for child in children]
        finally:
            for child in listed.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    subprocess.run(["kill", child], check=False)
            shell.kill()


def found(folder: Path, document: dict[str, Any], pid: int) -> tuple[RuntimeReading | None, RuntimeReading]:
    """How a server is found, and what is read by name after that."""
    with FakeDocker(folder / "docker.sock", ollama=document) as docker:
        runtime = DockerRuntime(docker.url, folder / "env", RememberedLimits(folder))
        server = ServerReading(pid, 1, 0, f"/docker/{document['Id']}", "argv says serve")
        reading = runtime.find(server, SECONDS), runtime.read("ollama", SECONDS)
        if reading[1].verbs == ():
            for act in (
                lambda: runtime.stop("ollama", SECONDS),
                lambda: runtime.limit("ollama", Limits(2**30), SECONDS),
            ):
                with pytest.raises(RuntimeFailed, match="Ollama is only a child of"):
                    act()
            assert not any(call.startswith("POST") for call in docker.asked)
        return reading


@pytest.mark.parametrize("name", ["docker-init", "tini", "dumb-init", "catatonit"])
def test_the_child_of_one_that_only_reaps_is_the_container_s_own(tmp_path: Path, name: str) -> None:
    with parent_and_children(tmp_path, name) as (first, children):
        reading, read = found(tmp_path, container("ollama", first), children[0])
        assert reading is not None
        assert reading.verbs == read.verbs == ALL


@pytest.mark.parametrize("name", ["uvicorn", "supervisord", "sh"])
def test_the_child_of_another_program_shares_the_container_and_nothing_is_done_to_it(
    tmp_path: Path, name: str
) -> None:
    with parent_and_children(tmp_path, name) as (first, children):
        for reading in found(tmp_path, container("ollama", first), children[0]):
            assert reading is not None
            assert reading.verbs == ()
            assert f"runs {name} as its first process" in reading.cannot
            assert "ollama-guard.authority=server" in reading.hint


def test_docker_s_own_word_for_a_reaper_counts_whatever_it_is_called(tmp_path: Path) -> None:
    with parent_and_children(tmp_path, "other") as (first, children):
        reading, _ = found(tmp_path, container("ollama", first, Init=True), children[0])
        assert reading is not None
        assert reading.verbs == ALL


def test_an_orphan_that_a_reaper_took_over_is_not_what_the_container_is_for(tmp_path: Path) -> None:
    with parent_and_children(tmp_path, "tini") as (first, children):
        reading, _ = found(tmp_path, container("ollama", first), children[1])
        assert reading is not None
        assert reading.verbs == ()


def test_the_owner_s_label_says_that_it_is_ollama_s_own(tmp_path: Path) -> None:
    """A start script of one's own as the first process is common, and looks like any other program."""
    document = container("ollama", 0)
    document["Config"]["Labels"] = {"ollama-guard.authority": "server"}
    with parent_and_children(tmp_path, "sh") as (first, children):
        document["State"]["Pid"] = first
        reading, _ = found(tmp_path, document, children[0])
        assert reading is not None
        assert reading.verbs == ALL


def test_a_process_of_another_parent_is_none_of_the_container_s(tmp_path: Path) -> None:
    with (
        parent_and_children(tmp_path, "tini") as (first, _),
        FakeDocker(tmp_path / "docker.sock", ollama=container("ollama", first)) as docker,
    ):
        runtime = DockerRuntime(docker.url, tmp_path / "env", RememberedLimits(tmp_path))
        assert runtime.find(ServerReading(1, 1, 0, f"/docker/{'a' * 64}", "argv"), SECONDS) is None
