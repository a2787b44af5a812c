"""What looks like a freeze in a container and is none: the guard, which may do anything, touches nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from beds import thrash, tracer
from beds.clients import RetryClient
from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.onlookers import Neighbour, events_of
from beds.process import Launcher, Started, alive, launch
from beds.real_ollama import own_shelf

SECONDS = 120.0
MIB = 1024**2
PERIOD = 100_000
LONG_SECONDS = 25.0
"""With these settings a server that a signal stopped is diagnosed after 10 s, one that hangs after 14 s."""
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nfull_for = "5s"\nyoung_for = "0s"\n'
ACTIONS = (
    "playbook.started", "playbook.step", "model.unloaded", "load.aborted", "runner.killed", "blob.condemned",
    "model.quarantined", "action.failed", "memory.reclaimed",
)  # fmt: skip

Start = Callable[..., ContainerOllama]
Story = Callable[[ContainerOllama], AbstractContextManager[None]]


@contextmanager
def paused(server: ContainerOllama) -> Iterator[None]:
    """`docker pause`, as a person does it to have the CPU for something else."""
    assert server.container is not None
    server.container.act("pause")
    yield
    server.container.act("unpause")


@contextmanager
def traced(server: ContainerOllama) -> Iterator[None]:
    """A debugger holds every thread of the server."""
    command = [sys.executable, "-I", "-S", tracer.__file__, str(server.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as debugger:
        assert debugger.stdin is not None
        assert debugger.stdout is not None
        assert debugger.stdout.readline() == b"held\n"
        yield
        debugger.stdin.close()


@contextmanager
def slowed(server: ContainerOllama) -> Iterator[None]:
    """Its owner gives it a twentieth of a core: the large model takes two seconds of a whole one."""
    assert server.container is not None
    server.container.act("update_container", None, PERIOD, PERIOD // 20)
    yield
    server.container.act("update_container", None, PERIOD, -1)


@contextmanager
def loading_slowly(server: ContainerOllama) -> Iterator[None]:
    """A client waits for a large model, which comes in no less than LONG_SECONDS."""
    with slowed(server), RetryClient(server.url, "big", timeout=SECONDS) as client:
        yield
        assert client.attempts == [], "it was not slow"


@contextmanager
def busy(server: ContainerOllama) -> Iterator[None]:
    """Clients keep a slow server busy, and more than one of them waits."""
    with ExitStack() as stack:
        stack.enter_context(slowed(server))
        for _ in range(4):
            stack.enter_context(RetryClient(server.url, "tiny", interval_seconds=0.1, timeout=SECONDS))
        yield


@contextmanager
def used(server: ContainerOllama) -> Iterator[None]:
    """A client asks now and then."""
    with RetryClient(server.url, "tiny", timeout=SECONDS):
        yield


SECOND = 1_000_000_000
BROKEN_CHECK = {"test": ["CMD-SHELL", "exit 1"], "interval": SECOND, "retries": 1}
STORIES: dict[str, tuple[Story, dict[str, Any], tuple[str, ...], str]] = {
    "paused": (paused, {}, ("pause", "unpause"), "it looks frozen, but ollama is paused"),
    "a debugger": (traced, {}, (), "it looks frozen, but a debugger is attached"),
    "a slow load": (loading_slowly, {}, ("update", "update"), ""),
    "a busy CPU": (busy, {}, ("update", "update"), ""),
    "a broken health check": (used, {"healthcheck": BROKEN_CHECK}, ("health_status: unhealthy",), ""),
}
"""What happens, options of the container, what Docker tells of it besides, and what the guard says of it."""


@pytest.mark.parametrize("title", STORIES)
def test_what_is_no_freeze_is_left_alone(
    docker_engine: DockerEngine,
    docker_ollama: Start,
    ollama_installation: Installation,
    tmp_path: Path,
    title: str,
) -> None:
    story, container, expected, said = STORIES[title]
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny", "big"))
    server = docker_ollama(models=models, container={"restart": "always", **container})
    assert server.container is not None
    neighbour, before, since = Neighbour(docker_engine), server.pid, time.time()
    where = {"DOCKER_HOST": docker_engine.url}
    cgroup = f"/{docker_engine.cgroup}"
    with Guard(server.url, cgroup=cgroup, ollama=WORD, config=QUICK, env=where) as guard:
        guard.wait_guarding(before, SECONDS)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        with story(server):
            if said:
                guard.wait(
                    lambda: any(said in e["message"] for e in guard.events("decision.held")), SECONDS, said
                )
            time.sleep(LONG_SECONDS)
            assert alive(before)
            assert [e for name in ACTIONS for e in guard.events(name)] == []
        server.wait_answering(SECONDS)
        time.sleep(2.0)
        assert [e for name in ACTIONS for e in guard.events(name)] == []
    assert server.pid == before
    done = [
        name for name in events_of(docker_engine, server.container, since) if not name.startswith("exec_")
    ]
    assert tuple(done) == expected
    neighbour.assert_untouched()


def test_an_upgrade_is_waited_for_and_the_new_container_is_guarded(
    docker_engine: DockerEngine, docker_ollama: Start, ollama_installation: Installation, tmp_path: Path
) -> None:
    """Its owner stops it, takes it away and makes a new one of the same name, as `compose up` does."""
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny",))
    server = docker_ollama(models=models, container={"restart": "always"})
    neighbour, old, since = Neighbour(docker_engine), server.container, time.time()
    assert old is not None
    where = {"DOCKER_HOST": docker_engine.url}
    cgroup = f"/{docker_engine.cgroup}"
    with Guard(server.url, cgroup=cgroup, ollama=WORD, config=QUICK, env=where) as guard, used(server):
        guard.wait_guarding(server.pid, SECONDS)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        old.act("stop")
        time.sleep(LONG_SECONDS / 2)
        done = events_of(docker_engine, old, since)
        server.stop()
        time.sleep(LONG_SECONDS / 2)
        server.start()
        new = server.container
        assert new is not None
        guard.wait_guarding(server.pid, SECONDS)
        time.sleep(LONG_SECONDS / 2)
        assert [e for name in ACTIONS for e in guard.events(name)] == []
    assert done.count("start") == 0, done
    assert events_of(docker_engine, new, since) == ["create", "start"]
    neighbour.assert_untouched()


def pressed_by(neighbour: Neighbour) -> Launcher:
    """For a guard to whom the machine's pressure is the neighbour's: as if nobody else were at work on it."""
    command = 'mount --bind "$0" /proc/pressure/memory && exec "$@"'

    def start(argv: Sequence[str], **options: Any) -> Started:
        return launch(["unshare", "--mount", "sh", "-c", command, str(neighbour.pressure), *argv], **options)

    return start


def test_a_neighbour_that_thrashes_is_no_reason_to_touch_ollama_nor_is_the_neighbour_touched(
    docker_engine: DockerEngine, docker_ollama: Start, ollama_installation: Installation, tmp_path: Path
) -> None:
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny",))
    server = docker_ollama(models=models, container={"restart": "always"})
    assert server.container is not None
    (tmp_path / "thrash").mkdir()
    with (tmp_path / "thrash" / "file").open("wb") as file:
        file.truncate(thrash.FILE_BYTES)
    beds = Path(thrash.__file__).parent
    neighbour = Neighbour(
        docker_engine,
        ["/usr/bin/python3", "-I", "-S", thrash.__file__, file.name],
        mem_limit=24 * MIB,
        binds=[f"{beds}:{beds}:ro", f"{tmp_path}/thrash:{tmp_path}/thrash:ro"],
    )
    before, since = server.pid, time.time()
    where = {"DOCKER_HOST": docker_engine.url}
    options = {"cgroup": f"/{docker_engine.cgroup}", "ollama": WORD, "config": f'{QUICK}full_above = "5%"\n'}
    alone = pressed_by(neighbour)
    with Guard(server.url, env=where, launcher=alone, **options) as guard, used(server):
        guard.wait_guarding(before, SECONDS)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        stalled = neighbour.stalled_seconds()
        guard.wait(
            lambda: any("it is somebody else's" in e["message"] for e in guard.events("decision.held")),
            SECONDS,
            "the thrash reaches the diagnosis",
        )
        time.sleep(LONG_SECONDS)
        assert neighbour.stalled_seconds() > stalled + 1.0, "it does not thrash"
        assert [e for name in ACTIONS for e in guard.events(name)] == []
    assert server.pid == before
    assert events_of(docker_engine, server.container, since) == []
    neighbour.assert_untouched()
