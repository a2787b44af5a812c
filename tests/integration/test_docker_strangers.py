"""A user's own Docker is believed of that user's processes, and no two of one name are mixed up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from beds.fake_docker import FakeDocker, container
from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime, engines
from ollama_guard.hands.remembered import RememberedLimits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders and processes away")

SECONDS = 10.0
USER = 1000
THEIRS = f"ollama@{USER}"


@dataclass(frozen=True, slots=True)
class Two:
    """The machine's engine and a user's, on each a container `ollama` of the same id, and their processes."""

    system: FakeDocker
    user: FakeDocker
    system_pid: int
    user_pid: int
    folder: Path

    def runtime(self) -> DockerRuntime:
        """As a guard that has just begun has it."""
        return DockerRuntime("", self.folder / "env", RememberedLimits(self.folder))

    def server(self, pid: int, uid: int) -> ServerReading:
        """As the sentinel tells of it."""
        return ServerReading(pid, 1, uid, "/", "argv says serve")

    def forget(self) -> None:
        """What was asked before does not matter."""
        self.system.asked.clear()
        self.user.asked.clear()


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    users = tmp_path / "users"
    (users / str(USER)).mkdir(parents=True)
    monkeypatch.setattr(engines, "_USERS", users)
    monkeypatch.setattr(engines, "DEFAULT_ADDRESS", f"unix://{tmp_path}/docker.sock")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with (
        subprocess.Popen(["sleep", "60"]) as ours,
        subprocess.Popen(["sleep", "60"], user=USER, group=USER) as theirs,
    ):
        documents = [container("ollama", pid) for pid in (ours.pid, theirs.pid)]
        documents[1]["Config"]["Labels"] = {"ollama-guard.authority": "server"}
        try:
            with (
                FakeDocker(tmp_path / "docker.sock", ollama=documents[0]) as system,
                FakeDocker(users / str(USER) / "docker.sock", ollama=documents[1]) as user,
            ):
                os.chown(users / str(USER), USER, USER)
                yield Two(system, user, ours.pid, theirs.pid, tmp_path)
        finally:
            ours.kill()
            theirs.kill()


def say_of_theirs(two: Two, pid: int) -> None:
    """What the user's engine says to be its container's first process."""
    document = container("ollama", pid)
    document["Config"]["Labels"] = {"ollama-guard.authority": "server"}
    for name in ("ollama", document["Id"]):
        two.user.answers[f"GET /containers/{name}/json"] = (200, document)


def test_their_word_counts_for_their_own_process_and_never_for_what_may_be_done(two: Two) -> None:
    reading = two.runtime().read(THEIRS, SECONDS)
    assert (reading.name, reading.server_pid, reading.authority) == (THEIRS, two.user_pid, False)
    found = two.runtime().find(two.server(two.user_pid, USER), SECONDS)
    assert found is not None
    assert (found.name, found.server_pid, found.authority) == (THEIRS, two.user_pid, False)
    say_of_theirs(two, two.system_pid)
    reading = two.runtime().read(THEIRS, SECONDS)
    assert (reading.name, reading.server_pid, reading.authority) == (THEIRS, None, False)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_of_one_name_are_never_taken_for_one_another(two: Two, order: tuple[int, int]) -> None:
    runtime = two.runtime()
    servers = [two.server(two.system_pid, 0), two.server(two.user_pid, USER)]
    names = {}
    for index in order:
        found = runtime.find(servers[index], SECONDS)
        assert found is not None
        names[index] = found.name
    assert names == {0: "ollama", 1: THEIRS}
    for name, theirs in (("ollama", False), (THEIRS, True)):
        for again in (runtime, two.runtime()):
            two.forget()
            assert again.read(name, SECONDS).server_pid == (two.user_pid if theirs else two.system_pid)
            with pytest.raises(RuntimeFailed):  # these engines know no stop
                again.stop(name, SECONDS)
            assert bool(two.user.asked) is theirs
            assert bool(two.system.asked) is not theirs


def test_a_name_alone_is_asked_of_nobody_s_own_engine(two: Two) -> None:
    missing = (404, {"message": "No such container: ollama"})
    two.system.answers["GET /containers/ollama/json"] = missing
    with pytest.raises(RuntimeFailed) as caught:
        two.runtime().read("ollama", SECONDS)
    assert caught.value.kind == "gone"
    assert two.user.asked == []


def test_limits_that_they_tell_are_not_taken_for_those_of_the_machine_s_own(two: Two) -> None:
    """They may say any id."""
    two.user.answers[f"GET /containers/{'a' * 64}/stats"] = (200, {"memory_stats": {"usage": 1}})
    two.user.answers[f"POST /containers/{'a' * 64}/update"] = (200, {})
    assert two.runtime().limit(THEIRS, Limits(2**30), SECONDS) == ()
    assert two.runtime().read(THEIRS, SECONDS).owners_limit_bytes == 0
    assert two.runtime().read("ollama", SECONDS).owners_limit_bytes is None


def test_a_user_without_a_docker_of_their_own_is_told(two: Two) -> None:
    with pytest.raises(RuntimeFailed, match="the user 77 runs no Docker") as caught:
        two.runtime().read("ollama@77", SECONDS)
    assert caught.value.kind == "absent"
