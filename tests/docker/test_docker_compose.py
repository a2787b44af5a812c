"""Compose still knows its container after the guard has recovered it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from beds import BedUnavailable
from beds.compose import ComposeOllama
from beds.docker import DockerEngine
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.onlookers import Neighbour
from beds.real_ollama import own_shelf

SECONDS = 240.0
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "10min"\n'


def test_ps_and_up_know_the_container_as_before(
    docker_engine: DockerEngine,
    ollama_installation: Installation,
    tmp_path: Path,
    give_up: Callable[[BedUnavailable], NoReturn],
) -> None:
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny",))
    try:
        project = ComposeOllama(docker_engine, ollama_installation, folder=tmp_path, models=models)
    except BedUnavailable as problem:
        give_up(problem)
    where = {"DOCKER_HOST": docker_engine.url}
    cgroup = f"/{docker_engine.cgroup}"
    with project as server, Guard(server.url, cgroup=cgroup, ollama=WORD, config=QUICK, env=where) as guard:
        assert server.container is not None
        neighbour, before = Neighbour(docker_engine), server.pid
        guard.wait_guarding(before, SECONDS)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        os.kill(before, signal.SIGSTOP)
        ended = guard.wait_event("playbook.finished", SECONDS)
        assert ended["outcome"] == "done", guard.tail()
        recovered = server.pid
        assert recovered not in (0, before)
        assert server.compose("ps", "-q").strip() == server.container.id
        assert " Up " in server.compose("ps")
        assert "up-to-date" in server.compose("up", "-d")
        assert server.pid == recovered
        neighbour.assert_untouched()
