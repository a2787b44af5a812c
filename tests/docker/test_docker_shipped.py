"""packaging/docker as it is shipped: built by its Dockerfile, run by its compose file, on a real Ollama."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from beds import BedUnavailable
from beds.clients import RetryClient
from beds.container_images import build_ollama, import_base, pip_index
from beds.docker import DockerEngine
from beds.ollama_install import Installation
from beds.onlookers import Neighbour, events_of
from beds.process import alive, children, environ_of
from beds.real_ollama import own_shelf
from beds.shipped import ShippedProject, checkout

# All on one worker: the images are built once an engine.
pytestmark = [pytest.mark.xdist_group("shipped"), pytest.mark.timeout(900)]

SECONDS = 120.0
HEALTH_SECONDS = 120.0
"""The shipped checks come each 30 s, and a failed one or two are forgiven."""
OTHER = 10001
KILL = 5
SYS_RESOURCE = 24
QUICK = 'poll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
PLAYBOOK = (
    '\n[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "30s"\n[policy]\ntransition = "10s"\n'
)

Start = Callable[..., ShippedProject]


@pytest.fixture(scope="module")
def stocked() -> Iterator[DockerEngine | BedUnavailable]:
    """An engine with the base image that a registry would have, and the storage that Docker chooses."""
    with ExitStack() as stack:
        try:
            made = DockerEngine(("--default-cgroupns-mode=host",))
            engine: DockerEngine | BedUnavailable = stack.enter_context(made)
            import_base(made)
        except BedUnavailable as problem:
            engine = problem
        yield engine


@pytest.fixture
def engine(
    stocked: DockerEngine | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]
) -> Iterator[DockerEngine]:
    if isinstance(stocked, BedUnavailable):
        give_up(stocked)
    yield stocked
    stocked.clear()


@pytest.fixture
def project(
    engine: DockerEngine,
    ollama_installation: Installation,
    tmp_path: Path,
    give_up: Callable[[BedUnavailable], NoReturn],
) -> Iterator[Start]:
    """Starts the project: `project(proxied=True, change=…)`; it goes with the test."""
    models = own_shelf(ollama_installation, tmp_path / "ollama" / "models", only=("tiny", "tiny2", "big"))
    with ExitStack() as stack:

        def start(**options: Any) -> ShippedProject:
            try:
                build_ollama(engine, ollama_installation)
                made = ShippedProject(
                    engine, checkout(tmp_path / "checkout"), models=models, config=QUICK + PLAYBOOK, **options
                )
                with pip_index() as index:
                    made.build(index)
            except BedUnavailable as problem:
                give_up(problem)
            return stack.enter_context(made)

        yield start


def has_right(pid: int | str, number: int) -> bool:
    """Whether a process has a capability."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return bool(int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16) >> number & 1)


def without_raised_limits(file: dict[str, Any]) -> None:
    """What README.md says to take out where Docker itself may not raise a limit."""
    del file["services"]["guard"]["ulimits"]["memlock"]
    del file["services"]["guard"]["oom_score_adj"]


def as_far_as_here(file: dict[str, Any]) -> None:
    """As it is shipped, if this machine may raise limits."""
    if not has_right("self", SYS_RESOURCE):
        without_raised_limits(file)


def load(shipped: ShippedProject, model: str) -> None:
    shipped.ask("POST", "/api/generate", {"model": model, "stream": False})


def wait_found(shipped: ShippedProject) -> None:
    """The guard has found Ollama's container and may do everything to it."""
    shipped.wait_event("ollama.found", SECONDS)
    found = shipped.wait_event("runtime.found", SECONDS, kind="docker")
    assert (found["name"], found["verbs"]) == ("ollama", "stop start limit")
    assert found["constrainable"] is True


def assert_it_is_as_small_as_the_file_says(shipped: ShippedProject) -> None:
    """No right but to signal, nothing to write to but its volumes."""
    guard = shipped.container("ollama-guard")
    for pid in (guard.pid, *children(guard.pid)):
        assert [number for number in range(64) if has_right(pid, number)] == [KILL], pid
    code, said = shipped.run_in("ollama-guard", "sh", "-c", "touch /opt/x; mkdir /sys/fs/cgroup/memory/x")
    assert (code, said.count("Read-only file system") + said.count("Permission denied")) == (1, 2), said


def assert_relief_comes(shipped: ShippedProject) -> None:
    """An idle model is unloaded while memory is short, and a load that can't fit is aborted."""
    load(shipped, "tiny")
    load(shipped, "tiny2")
    shipped.wait_event("model.unloaded", SECONDS)
    with RetryClient(shipped.url, "big"):
        aborted = shipped.wait_event("load.aborted", SECONDS)
        assert "big" in aborted["message"]
        shipped.wait_event("model.quarantined", SECONDS)


def assert_it_is_told_of(shipped: ShippedProject) -> None:
    """What its owner does to Ollama is heard from Docker at once."""
    shipped.container("ollama").act("kill")
    told = shipped.wait_event("runtime.told", SECONDS)
    assert (told["happening"], told["exit_code"]) == ("die", 137)
    shipped.container("ollama").act("start")
    shipped.wait(shipped.answers, SECONDS, "Ollama answers again")
    shipped.wait_event("ollama.found", SECONDS, pid=shipped.container("ollama").pid)


def written(shipped: ShippedProject) -> str:
    """The guard's environment file, as Ollama's container sees it."""
    code, said = shipped.run_in("ollama", "cat", "/var/lib/ollama-guard/env/ollama.env")
    assert code == 0, said
    return said


def assert_it_recovers(engine: DockerEngine, shipped: ShippedProject) -> None:
    """A server that a signal stopped is constrained, stopped, started, and after quiet its owner's again."""
    ollama, since = shipped.container("ollama"), time.time()
    before = ollama.pid
    owner = ollama.limits()
    os.kill(before, signal.SIGSTOP)
    ended = shipped.wait_event("playbook.finished", SECONDS)
    assert ended["outcome"] == "done", ended
    assert not alive(before)
    # Now: Docker keeps but the last 256, and each look into a container adds some.
    done = events_of(engine, ollama, since)
    assert [name for name in done if name in ("stop", "start", "kill", "restart")][-2:] == [
        "stop",
        "start",
    ], done
    assert environ_of(ollama.pid)["OLLAMA_MAX_LOADED_MODELS"] == "1"
    assert environ_of(ollama.pid)["OLLAMA_KEEP_ALIVE"] == "30s"
    load(shipped, "tiny")
    assert "OLLAMA_MAX_LOADED_MODELS=1" in written(shipped)
    shipped.wait(lambda: "OLLAMA_" not in written(shipped), SECONDS, "the environment file says nothing")
    assert ollama.limits() == owner


def health(shipped: ShippedProject, name: str) -> str:
    """What the last check of a container said, once Docker calls it healthy."""
    container = shipped.container(name)
    shipped.wait(
        lambda: container.state["Health"]["Status"] == "healthy", HEALTH_SECONDS, f"{name} is healthy"
    )
    return str(container.state["Health"]["Log"][-1]["Output"])


def assert_all_is_well(shipped: ShippedProject) -> None:
    """Both are healthy to Docker, by the guard's own health check and by the hook that reads its status."""
    for name, words in (("ollama-guard", ""), ("ollama", "the guard says that memory is at level")):
        assert words in health(shipped, name)
    told = json.loads(shipped.run_in("ollama", "cat", "/run/ollama-guard-public/status.json")[1])
    assert told["level"] == "ok"
    sockets = shipped.run_in("ollama-guard", "ls", "/run/ollama-guard")[1]
    assert {"status.sock", "control.sock"} <= set(sockets.split())
    for command in (["status"], ["pause", "1s"]):
        code, said = shipped.run_in("ollama-guard", "ollama-guard", *command)
        assert code == 0, said
    shipped.wait_event("pause.started", SECONDS)


@pytest.mark.parametrize("proxied", [False, True], ids=["the whole socket", "a narrowed socket"])
def test_what_is_shipped_guards_the_ollama_beside_it_and_recovers_it(
    engine: DockerEngine, project: Start, *, proxied: bool
) -> None:
    shipped = project(proxied=proxied, change=as_far_as_here)
    neighbour = Neighbour(engine)
    wait_found(shipped)
    assert_it_is_as_small_as_the_file_says(shipped)
    assert_relief_comes(shipped)
    assert_it_is_told_of(shipped)
    assert_it_recovers(engine, shipped)
    assert_all_is_well(shipped)
    neighbour.assert_untouched()


def of_another_user(file: dict[str, Any]) -> None:
    """Ollama is not root, so that root's own number opens no door; and Docker itself may raise no limit."""
    without_raised_limits(file)
    ollama = file["services"]["ollama"]
    ollama["user"] = f"{OTHER}:{OTHER}"
    ollama["environment"]["HOME"] = "/var/ollama"
    ollama["volumes"] = [each.replace(":/root/.ollama", ":/var/ollama/.ollama") for each in ollama["volumes"]]


def of_another_user_without_the_right(file: dict[str, Any]) -> None:
    """And the guard has not even CAP_KILL."""
    of_another_user(file)
    del file["services"]["guard"]["cap_add"]


def give_away(folder: Path) -> None:
    """The folders and manifests go to the other user; the weights belong to other tests too."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or "manifests" in path.parts:
            os.chown(path, OTHER, OTHER)


@pytest.mark.parametrize(
    ("change", "event"),
    [(of_another_user, "load.aborted"), (of_another_user_without_the_right, "action.failed")],
    ids=["with cap_kill", "without"],
)
def test_without_raised_limits_it_kills_another_users_runner_by_its_one_right_alone(
    project: Start, tmp_path: Path, change: Callable[[dict[str, Any]], None], event: str
) -> None:
    give_away(tmp_path / "ollama")
    shipped = project(change=change)
    wait_found(shipped)
    assert Path(f"/proc/{shipped.container('ollama').pid}").stat().st_uid == OTHER
    with RetryClient(shipped.url, "big"):
        told = shipped.wait_event(event, SECONDS)
        assert "big" in told["message"], told
    assert bool(shipped.events("load.aborted")) is (event == "load.aborted")
