"""What Docker tells by itself of Ollama's container is heard at once, and of nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from beds.docker import Container, DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from ollama_guard.core.runtime import Happening, Told
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime, adapter
from ollama_guard.hands.remembered import RememberedLimits

MIB = 1024**2
SECONDS = 30.0
SLEEP = ["/bin/sh", "-c", "exec sleep 1000"]
HUNGRY = ["/bin/sh", "-c", "while :; do perl -e 'my $held = q(x) x (200 * 1024 * 1024)'; sleep 1; done"]
"""Its child wants 200 MiB, again and again."""

CHECK = {"test": ["CMD-SHELL", "test -e /var/well"], "interval": 1_000_000_000, "retries": 1}


@dataclass
class Ear:
    """Listens to the container named `ollama` in a thread."""

    runtime: DockerRuntime
    words: list[Told] = field(default_factory=list)
    ended: RuntimeFailed | None = None
    wanted: bool = True

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        try:
            self.runtime.listen("ollama", self.words.append, lambda: self.wanted)
        except RuntimeFailed as problem:
            self.ended = problem

    def wait(self, *words: Told) -> None:
        """Until these have been told, in any order."""
        wait(lambda: set(words) <= set(self.words), f"{words} of {self.words}, {self.ended}")


def wait(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def runtime(docker_engine: DockerEngine, tmp_path: Path) -> DockerRuntime:
    return DockerRuntime(docker_engine.url, tmp_path / "env", RememberedLimits(tmp_path))


@pytest.fixture
def run(docker_engine: DockerEngine) -> Iterator[Callable[..., Container]]:
    yield docker_engine.run
    docker_engine.clear()


def test_out_of_memory_and_the_end_are_told_and_of_a_neighbour_nothing(
    run: Callable[..., Container], runtime: DockerRuntime
) -> None:
    """The neighbour's name begins like Ollama's, which Docker's own filter lets through."""
    ollama = run(HUNGRY, name="ollama", mem_limit=100 * MIB)
    ear = Ear(runtime)
    ear.wait(Told(Happening.OUT_OF_MEMORY))
    run(["/bin/sh", "-c", "exit 3"], name="ollama-web")
    ollama.act("kill")
    ear.wait(Told(Happening.ENDED, 137))
    assert Told(Happening.ENDED, 3) not in ear.words


def test_a_health_check_that_fails_and_one_that_passes_are_told(
    run: Callable[..., Container], runtime: DockerRuntime, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    run(SLEEP, name="ollama", healthcheck=CHECK, binds=[f"{shared}:/var"])
    ear = Ear(runtime)
    ear.wait(Told(Happening.UNHEALTHY))
    (shared / "well").touch()
    ear.wait(Told(Happening.HEALTHY))


def test_between_two_rounds_nothing_is_lost_and_it_ends_when_it_is_not_wanted(
    run: Callable[..., Container], runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "ROUND_SECONDS", 1.0)
    monkeypatch.setattr(adapter, "EARLY_SECONDS", 1.0)
    ollama = run(["/bin/sh", "-c", "sleep 0.3; exit 7"], name="ollama", started=False)
    ear = Ear(runtime)
    time.sleep(1.0)
    for _ in range(8):
        ollama.act("start")
        time.sleep(0.7)
    wait(lambda: ear.words.count(Told(Happening.ENDED, 7)) == 8, str(ear.words))
    ear.wanted = False
    ear.thread.join(SECONDS)
    assert not ear.thread.is_alive()
    assert ear.ended is None


def test_an_engine_that_goes_away_ends_it_with_a_name(
    run: Callable[..., Container], runtime: DockerRuntime, docker_engine: DockerEngine
) -> None:
    ollama = run(SLEEP, name="ollama", restart="always")
    ear = Ear(runtime)
    ollama.act("kill")
    ear.wait(Told(Happening.ENDED, 137))
    docker_engine.kill()
    ear.thread.join(SECONDS)
    assert ear.ended is not None
    assert ear.ended.kind == "absent"
    docker_engine.start()


def test_the_guard_says_in_its_log_what_docker_tells(
    docker_engine: DockerEngine, docker_ollama: Callable[..., ContainerOllama]
) -> None:
    server = docker_ollama(container={"restart": "always"})
    docker = {"DOCKER_HOST": docker_engine.url}
    with Guard(server.url, cgroup=f"/{docker_engine.cgroup}", env=docker) as guard:
        guard.wait_guarding(server.pid)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        assert server.container is not None
        server.container.act("kill")
        told = guard.wait_event("runtime.told", SECONDS)
        assert told["happening"] == "die"
        assert told["exit_code"] == 137
        docker_engine.stop()
        docker_engine.start()
        guard.wait(
            lambda: _heard_again(guard, server), SECONDS * 2, "it listens to the engine that came back"
        )


def _heard_again(guard: Guard, server: ContainerOllama) -> bool:
    count = len(guard.events("runtime.told"))
    assert server.container is not None
    server.container.act("restart")
    time.sleep(3.0)
    return len(guard.events("runtime.told")) > count
