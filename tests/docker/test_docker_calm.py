"""A client keeps asking for a model that its container can't hold: the model goes, and all is calm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beds.clients import RetryClient
from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.onlookers import Neighbour, events_of
from beds.real_ollama import own_shelf

SECONDS = 180.0
MIB = 1024**2
AGAIN_AND_AGAIN = 3
CALM_SECONDS = 15.0
"""In which the kernel killed about ten times without the guard."""
SERVER = 'authority = "server"\n'

Asked = tuple[ContainerOllama, RetryClient, float]


@pytest.fixture
def asked(
    docker_engine: DockerEngine,
    docker_ollama: Callable[..., ContainerOllama],
    ollama_installation: Installation,
    tmp_path: Path,
) -> Iterator[Asked]:
    """A server of 600 MiB, a client that asks it for a model of 1.5 GiB again and again, and since when."""
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny", "big"))
    neighbour = Neighbour(docker_engine)
    server = docker_ollama(models=models, container={"restart": "always", "mem_limit": 600 * MIB})
    before, since = server.pid, time.time()
    with RetryClient(server.url, "big", interval_seconds=0.2) as client:
        yield server, client, since
    assert server.pid == before
    neighbour.assert_untouched()


def guard_of(server: ContainerOllama, engine: DockerEngine, home: Path, config: str = "") -> Guard:
    home.mkdir(exist_ok=True)
    where = {"DOCKER_HOST": engine.url}
    return Guard(server.url, cgroup=f"/{engine.cgroup}", ollama=SERVER, config=config, home=home, env=where)


def oom_kills(engine: DockerEngine, server: ContainerOllama, since: float) -> int:
    assert server.container is not None
    return events_of(engine, server.container, since).count("oom")


def wait_killed(engine: DockerEngine, server: ContainerOllama, since: float) -> None:
    deadline = time.monotonic() + SECONDS
    while oom_kills(engine, server, since) < AGAIN_AND_AGAIN:
        assert time.monotonic() < deadline, "the kernel has not killed it again and again"
        time.sleep(0.5)


def assert_calm(engine: DockerEngine, guard: Guard, asked: Asked) -> None:
    """The model is hidden, nobody is killed for it any more, and what fits is served."""
    server, client, _ = asked
    guard.wait_event("model.quarantined", SECONDS)
    guard.wait(
        lambda: client.statuses()[-1:] == [404], SECONDS, "the client hears that there is no such model"
    )
    since, count = time.time(), len(client.attempts)
    server.load("tiny")
    time.sleep(CALM_SECONDS)
    assert oom_kills(engine, server, since) == 0
    assert set(client.statuses()[count:]) == {404}
    assert guard.events("blob.condemned")
    assert guard.events("playbook.started") == []


def test_without_a_guard_the_kernel_kills_again_and_again_and_with_one_it_is_calm(
    docker_engine: DockerEngine, asked: Asked, tmp_path: Path
) -> None:
    server, _, since = asked
    wait_killed(docker_engine, server, since)
    with guard_of(server, docker_engine, tmp_path / "guard") as guard:
        assert_calm(docker_engine, guard, asked)


def test_what_the_kernel_killed_condemns_too_and_is_hidden_as_soon_as_the_guard_may(
    docker_engine: DockerEngine, asked: Asked, tmp_path: Path
) -> None:
    """A guard that only observes stands for one that comes too late: it sees the kernel kill."""
    server, _, since = asked
    home = tmp_path / "guard"
    with guard_of(server, docker_engine, home, '[policy]\nmode = "observe"\n') as guard:
        guard.wait(lambda: len(guard.events("runner.lost")) >= 2, SECONDS, "the kernel kills")
        condemned = guard.wait_event("blob.condemned", SECONDS)
        assert "big" in condemned["names"]
        assert guard.events("runner.killed") == guard.events("load.aborted") == []
    wait_killed(docker_engine, server, since)
    with guard_of(server, docker_engine, home) as guard:
        assert_calm(docker_engine, guard, asked)
