"""With the shipped entrypoint: Ollama starts constrained, and is its owner's again after quiet."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.handling import wait_look
from beds.ollama_install import Installation
from beds.onlookers import Neighbour
from beds.process import environ_of
from beds.real_ollama import own_shelf

SECONDS = 180.0
MIB = 1024**2
SHIPPED = Path(__file__).parents[2] / "packaging" / "docker"
INSIDE = "/var/lib/ollama-guard/env"
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "30s"\n'
OWNERS = {"OLLAMA_KEEP_ALIVE": "1h", "OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_NUM_PARALLEL": "2"}
CONSTRAINED = {"OLLAMA_KEEP_ALIVE": "30s", "OLLAMA_MAX_LOADED_MODELS": "1", "OLLAMA_NUM_PARALLEL": "1"}


def lines_of(file: Path) -> list[str]:
    """What an environment file says, without its comments."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def taken(server: ContainerOllama) -> dict[str, str]:
    """What the server was started with, of what the guard may change."""
    environment = environ_of(server.pid)
    return {key: environment[key] for key in OWNERS}


def test_constraints_are_in_force_after_the_start_and_after_quiet_all_is_the_owners_again(
    docker_engine: DockerEngine,
    docker_ollama: Callable[..., ContainerOllama],
    ollama_installation: Installation,
    tmp_path: Path,
) -> None:
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny",))
    home = tmp_path / "guard"
    folder = home / "state" / "env"
    folder.mkdir(parents=True)
    container = {
        "restart": "always",
        "mem_limit": 600 * MIB,
        "entrypoint": ["/bin/sh", "/var/shipped/ollama-guard-entrypoint"],
        "binds": [f"{SHIPPED}:/var/shipped:ro", f"{folder}:{INSIDE}:ro"],
    }
    server, neighbour = (
        docker_ollama(models=models, container=container, env=OWNERS),
        Neighbour(docker_engine),
    )
    assert server.container is not None
    before, limits = server.pid, server.container.limits()
    assert taken(server) == OWNERS
    where = {"DOCKER_HOST": docker_engine.url}
    cgroup = f"/{docker_engine.cgroup}"
    with Guard(server.url, cgroup=cgroup, ollama=WORD, config=QUICK, home=home, env=where) as guard:
        guard.wait_guarding(before)
        assert guard.wait_event("runtime.found", SECONDS, kind="docker")["constrainable"] is True
        os.kill(before, signal.SIGSTOP)
        assert guard.wait_event("playbook.finished", SECONDS)["outcome"] == "done", guard.tail()
        assert server.pid != before
        assert taken(server) == CONSTRAINED
        assert f"OLLAMA_KEEP_ALIVE={CONSTRAINED['OLLAMA_KEEP_ALIVE']}" in lines_of(folder / "ollama.env")
        assert server.container.limits()["CpuQuota"] > 0
        wait_look(guard, lambda told: told["playbook"]["state"] == "constrained", "constrained")

        wait_look(guard, lambda told: told["playbook"]["state"] != "constrained", "reopened", seconds=SECONDS)
        assert lines_of(folder / "ollama.env") == []
        # Docker can't take a CPU limit back to what it was never set to.
        assert server.container.limits() == {**limits, "CpuQuota": -1, "CpuPeriod": 100_000}
        assert not guard.events("action.failed")
        server.container.act("restart", 1)
        server.wait_answering(SECONDS)
        assert taken(server) == OWNERS
    neighbour.assert_untouched()
