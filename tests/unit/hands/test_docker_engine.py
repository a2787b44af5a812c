"""How the SDK's failures are told."""

from __future__ import annotations

import pytest
from docker.errors import APIError

from ollama_guard.hands.adapters.docker.engine import named

IDENTITY = "148ac11f18949204662735a9ac110d7b86eaf65db9014963cc717beeda1a117b"


@pytest.mark.parametrize(
    "said",
    [
        f"task {IDENTITY}: already exists",
        "id already in use",
        f"mkdir /run/io.containerd.runtime.v2.task/moby/{IDENTITY}: file exists: unknown",
    ],
)
def test_the_rest_of_a_start_that_was_cut_off_is_told_with_the_way_out(said: str) -> None:
    """Recorded from Docker 28 on containerd 1.6, killed in the middle of a start."""
    problem = named(APIError("500 Server Error", explanation=said), "unix:///var/run/docker.sock")
    assert problem.kind == "refused"
    assert said in str(problem)
    assert str(problem).endswith("make the container anew (docker compose up --detach --force-recreate)")


def test_another_refusal_is_told_as_it_is() -> None:
    problem = named(
        APIError("409", explanation="container is paused, file exists"), "unix:///run/docker.sock"
    )
    assert str(problem) == "Docker refused: container is paused, file exists"
