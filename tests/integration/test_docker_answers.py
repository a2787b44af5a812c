"""What the Docker adapter makes of answers that a real engine gives only in bad moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beds.fake_docker import FakeDocker, container
from ollama_guard.core.runtime import Limits
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime
from ollama_guard.hands.remembered import RememberedLimits

SECONDS = 10.0
OLLAMA = container("ollama", 4_000_000)
ID = OLLAMA["Id"]


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[FakeDocker]:
    with FakeDocker(tmp_path / "docker.sock", ollama=OLLAMA) as engine:
        yield engine


@pytest.fixture
def runtime(docker: FakeDocker, tmp_path: Path) -> DockerRuntime:
    return DockerRuntime(docker.url, tmp_path / "env", RememberedLimits(tmp_path))


def failed(call: Callable[[], object]) -> RuntimeFailed:
    with pytest.raises(RuntimeFailed) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [(502, "absent"), (503, "absent"), (504, "hanging"), (500, "refused"), (403, "denied"), (404, "gone")],
)
def test_a_proxy_that_has_lost_its_docker_says_that_it_is_away(
    docker: FakeDocker, runtime: DockerRuntime, status: int, kind: str
) -> None:
    """HAProxy answers for a Docker that is not there, and that must not look like Docker's own no."""
    said = (status, {"message": "none of Docker's words"})
    docker.answers["GET /containers/ollama/json"] = said
    assert failed(lambda: runtime.read("ollama", SECONDS)).kind == kind


@pytest.mark.parametrize(("status", "kind"), [(503, "absent"), (504, "hanging"), (404, "gone")])
def test_a_limit_that_nobody_took_is_no_refusal(
    docker: FakeDocker, runtime: DockerRuntime, status: int, kind: str
) -> None:
    docker.answers[f"GET /containers/{ID}/stats"] = (200, {"memory_stats": {"usage": 1}})
    docker.answers[f"POST /containers/{ID}/update"] = (status, {"message": "none of Docker's words"})
    assert failed(lambda: runtime.limit("ollama", Limits(2**30), SECONDS)).kind == kind


def test_a_stop_that_lost_its_docker_is_not_taken_for_a_refused_one(
    docker: FakeDocker, runtime: DockerRuntime
) -> None:
    docker.answers[f"POST /containers/{ID}/stop"] = (503, b"<html><h1>503 Service Unavailable</h1>")
    assert failed(lambda: runtime.stop("ollama", SECONDS)).kind == "absent"
