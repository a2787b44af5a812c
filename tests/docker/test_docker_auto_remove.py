"""A container that Docker would delete when it stops, which the guard therefore never stops."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from docker.types import Mount

from beds.clients import RetryClient
from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.onlookers import Neighbour, events_of
from beds.process import alive
from beds.real_ollama import own_shelf

SECONDS = 300.0
MIB = 1024**2
FROZEN_SECONDS = 25.0
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "10min"\n'

Start = Callable[..., ContainerOllama]


def guard_of(server: ContainerOllama, engine: DockerEngine) -> Guard:
    where = {"DOCKER_HOST": engine.url}
    return Guard(server.url, cgroup=f"/{engine.cgroup}", ollama=WORD, config=QUICK, env=where)


def test_a_container_that_its_stop_would_delete_survives_a_freeze_with_its_volume(
    docker_engine: DockerEngine, docker_ollama: Start, ollama_installation: Installation, tmp_path: Path
) -> None:
    """Its runners may be killed and its models hidden, and the guard says why it does no more."""
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny", "big"))
    anonymous = Mount("/var/anonymous", None, type="volume")
    server = docker_ollama(
        models=models, container={"auto_remove": True, "mem_limit": 600 * MIB, "mounts": [anonymous]}
    )
    assert server.container is not None
    neighbour, before, since = Neighbour(docker_engine), server.pid, time.time()
    volume = next(m["Name"] for m in server.container.inspect()["Mounts"] if m["Type"] == "volume")
    with guard_of(server, docker_engine) as guard:
        guard.wait_guarding(before, SECONDS)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        with RetryClient(server.url, "big", interval_seconds=0.2):
            guard.wait_event("model.quarantined", SECONDS)
            os.kill(before, signal.SIGSTOP)
            guard.wait(
                lambda: any("--rm" in event["message"] for event in guard.events("decision.held")),
                SECONDS,
                "it is said why nothing is stopped",
            )
            time.sleep(FROZEN_SECONDS)
            assert alive(before)
            os.kill(before, signal.SIGCONT)
            server.wait_answering(SECONDS)
        server.load("tiny")
        assert guard.events("playbook.started") == []
    assert server.pid == before
    assert events_of(docker_engine, server.container, since) == []
    with docker_engine.api() as api:
        assert api.inspect_volume(volume)["Name"] == volume
    neighbour.assert_untouched()
