"""The whole guard beside a container with the real Ollama: it says how Ollama is run."""

from __future__ import annotations

from collections.abc import Callable

from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard

SECONDS = 30.0


def test_the_guard_tells_that_ollama_is_a_container_what_it_may_do_and_what_one_line_would_add(
    docker_engine: DockerEngine, docker_ollama: Callable[..., ContainerOllama]
) -> None:
    server = docker_ollama(container={"restart": "always"})
    docker = {"DOCKER_HOST": docker_engine.url}
    word = 'authority = "server"\n'
    with Guard(server.url, cgroup=f"/{docker_engine.cgroup}", ollama=word, env=docker) as guard:
        guard.wait_guarding(server.pid)
        found = guard.wait_event("runtime.found", SECONDS, kind="docker")
        assert found["name"] == "ollama"
        assert found["verbs"] == "stop start limit"
        assert found["constrainable"] is False
        assert "ollama-guard-entrypoint" in found["message"]
        docker_engine.freeze()
        hanging = guard.wait_event("runtime.failed", SECONDS)
        assert hanging["name"] == "ollama"
        assert hanging["error"] == "hanging"
        docker_engine.thaw()
        guard.wait(lambda: len(guard.events("runtime.found")) == 2, SECONDS, "Docker is there again")
        assert server.alive
        assert guard.events("hands.restarted") == []
