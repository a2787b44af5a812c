"""A Docker that its owner has stopped is not started by the guard's look at it; any other is asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beds.fake_docker import FakeDocker, container
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime, asleep
from ollama_guard.hands.remembered import RememberedLimits

UNIT = "usr/lib/systemd/system/docker.socket"


class Machine:
    """A made-up machine: its files, and who listens at its socket."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc/systemd/system", "run", "proc/1", "var"):
            (root / folder).mkdir(parents=True)
        (root / "var/run").symlink_to(root / "run")
        self.write("proc/1/comm", "systemd\n")
        self.docker = FakeDocker(root / "run/docker.sock", ollama=container("ollama", 77))

    def write(self, path: str, text: str) -> None:
        """Write a file of it."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self) -> None:
        """Ask for a container; raises `RuntimeFailed`."""
        book = RememberedLimits(self.root)
        DockerRuntime(f"unix://{self.root}/var/run/docker.sock", self.root / "env", book).read("ollama", 10.0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """One with docker.socket and without a Docker."""
    monkeypatch.setattr(asleep, "_ROOT", tmp_path)
    built = Machine(tmp_path)
    built.write(UNIT, "[Socket]\nListenStream=/run/docker.sock\n")
    with built.docker:
        yield built


def gone() -> int:
    """The PID of a process that has been."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def left_behind(machine: Machine) -> None:
    machine.write("run/docker.pid", str(gone()))


def torn(machine: Machine) -> None:
    machine.write("run/docker.pid", "9" * 30)


@pytest.mark.parametrize("change", [lambda _: None, left_behind, torn])
def test_a_docker_that_is_stopped_is_away_and_is_not_woken(
    machine: Machine, change: Callable[[Machine], None]
) -> None:
    change(machine)
    with pytest.raises(RuntimeFailed, match="would start it") as caught:
        machine.read()
    assert caught.value.kind == "absent"
    assert machine.docker.connections == 0


def pid_file(machine: Machine) -> None:
    machine.write("run/docker.pid", f"{os.getpid()}\n")


def pid_file_elsewhere(machine: Machine) -> None:
    machine.write("proc/4242/comm", "dockerd\n")


def no_unit(machine: Machine) -> None:
    (machine.root / UNIT).unlink()


def masked(machine: Machine) -> None:
    (machine.root / "etc/systemd/system/docker.socket").symlink_to("/dev/null")


def another_s_socket(machine: Machine) -> None:
    (machine.root / "run/docker.sock").rename(machine.root / "run/podman.sock")
    (machine.root / "run/docker.sock").symlink_to(machine.root / "run/podman.sock")


def hidden_processes(machine: Machine) -> None:
    (machine.root / "proc/1/comm").unlink()


@pytest.mark.parametrize(
    "change", [pid_file, pid_file_elsewhere, no_unit, masked, another_s_socket, hidden_processes]
)
def test_who_may_be_awake_is_asked(machine: Machine, change: Callable[[Machine], None]) -> None:
    change(machine)
    machine.read()
    assert machine.docker.connections > 0


def test_another_user_s_process_in_the_pid_file_lives(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    pid_file(machine)
    monkeypatch.setattr("os.kill", refuse)
    machine.read()


def test_a_docker_that_is_stopped_between_two_looks_is_not_woken_either(machine: Machine) -> None:
    pid_file(machine)
    book = RememberedLimits(machine.root)
    runtime = DockerRuntime(f"unix://{machine.root}/run/docker.sock", machine.root / "env", book)
    runtime.read("ollama", 10.0)
    before = machine.docker.connections
    (machine.root / "run/docker.pid").unlink()
    with pytest.raises(RuntimeFailed, match="would start it"):
        runtime.read("ollama", 10.0)
    assert machine.docker.connections == before
