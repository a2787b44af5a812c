"""After a freeze a real Ollama is opened again: a restart in an idle moment ends its constraints."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.handling import look
from beds.http import request
from beds.ollama_install import Installation
from beds.real_ollama import own_shelf

SECONDS = 180.0
LATER_SECONDS = 300.0
"""The freeze has to be over for a transition, then it is quiet twice, with a minute of idleness."""
OWNERS = {"OLLAMA_KEEP_ALIVE": "1h", "OLLAMA_MAX_LOADED_MODELS": "3"}
INSIDE = "/var/lib/ollama-guard/env"
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "30s"\n'


def environ(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_a_restart_in_an_idle_moment_ends_the_constraints_and_costs_nobody_an_answer(
    docker_engine: DockerEngine,
    docker_ollama: Callable[..., ContainerOllama],
    ollama_installation: Installation,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state" / "env"
    folder.mkdir(parents=True)
    (folder / "ollama-guard-entrypoint").write_text(
        f"[ ! -f {INSIDE}/ollama.env ] || {{ set -a; . {INSIDE}/ollama.env; set +a; }}\n"
        'exec "$OLLAMA_GUARD_EXEC" "$@"\n'
    )
    container = {
        "restart": "always",
        "entrypoint": ["/bin/sh", f"{INSIDE}/ollama-guard-entrypoint"],
        "binds": [f"{folder}:{INSIDE}:ro"],
    }
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny",))
    server = docker_ollama(models=models, container=container, env=OWNERS)
    docker = {"DOCKER_HOST": docker_engine.url}
    cgroup = f"/{docker_engine.cgroup}"
    with Guard(server.url, cgroup=cgroup, ollama=WORD, config=QUICK, home=tmp_path, env=docker) as guard:
        guard.wait_guarding(server.pid)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        os.kill(server.pid, signal.SIGSTOP)
        assert guard.wait_event("playbook.finished", SECONDS)["outcome"] == "done", guard.tail()
        constrained = server.pid
        assert environ(constrained)["OLLAMA_KEEP_ALIVE"] == "30s"
        assert environ(constrained)["OLLAMA_MAX_LOADED_MODELS"] == "1"
        assert "LLAMA_ARG_CACHE_RAM" in environ(constrained)
        guard.wait(lambda: look(guard)["ollama"]["cap"]["hard"] == 1, SECONDS, "the cap that holds")

        guard.wait_event("playbook.step", LATER_SECONDS, step="release")
        guard.wait(lambda: look(guard)["playbook"]["state"] == "lifted", SECONDS, "lifted")
        assert look(guard)["ollama"]["cap"]["hard"] == 1, "what runs was started with it"
        asked = {"model": "tiny", "prompt": "hello", "stream": False, "options": {"num_predict": 2}}
        assert request(server.url, "POST", "/api/generate", asked)["done"]
        assert server.pid == constrained

        guard.wait_event("playbook.step", LATER_SECONDS, step="restart")
        server.wait_answering(SECONDS)
        assert server.pid != constrained
        now = environ(server.pid)
        assert {key: now[key] for key in OWNERS} == OWNERS
        assert "LLAMA_ARG_CACHE_RAM" not in now
        guard.wait(lambda: look(guard)["playbook"]["state"] == "idle", SECONDS, "idle")
        assert look(guard)["ollama"]["cap"]["hard"] == 3
        assert len(guard.events("playbook.started")) == 1
