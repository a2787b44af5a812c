"""What the Docker adapter makes of answers that a real engine gives only in bad moments."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beds.fake_docker import FakeDocker, Speaking, container
from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Happening, Limits, Told
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime, adapter
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


def listen(runtime: DockerRuntime) -> RuntimeFailed:
    """How listening fails that nobody ever stops wanting."""
    return failed(lambda: runtime.listen("ollama", lambda _: None, lambda: True))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a moment."""
    for name in ("ROUND_SECONDS", "EARLY_SECONDS", "SLACK_SECONDS"):
        monkeypatch.setattr(adapter, name, 0.2)


@pytest.mark.parametrize(("status", "kind"), [(403, "denied"), (500, "refused"), (503, "absent")])
def test_a_refusal_that_comes_in_chunks_is_no_event(
    docker: FakeDocker, runtime: DockerRuntime, status: int, kind: str
) -> None:
    def say(speaking: Speaking) -> None:
        speaking.begin(status)
        speaking.chunk(b'{"message": "it says no"}\n')
        speaking.chunk(b"")

    docker.answers["GET /events"] = say
    problem = listen(runtime)
    assert (problem.kind, "it says no" in str(problem)) == (kind, True)


@pytest.mark.parametrize("said", [b'{"Action": "die"}\n{"Act', b"[]\n", b"\xff\n", b"[" * 5000 + b"\n"])
def test_what_is_no_event_is_a_bad_answer(docker: FakeDocker, runtime: DockerRuntime, said: bytes) -> None:
    def say(speaking: Speaking) -> None:
        speaking.begin(200)
        speaking.chunk(said)
        speaking.chunk(b"")

    docker.answers["GET /events"] = say
    assert listen(runtime).kind == "bad_answer"


def test_an_engine_that_dies_between_two_events_is_away(docker: FakeDocker, runtime: DockerRuntime) -> None:
    def say(speaking: Speaking) -> None:
        speaking.begin(200)
        speaking.chunk(b'{"Action": "top"}\n')
        speaking.close_connection = True

    docker.answers["GET /events"] = say
    assert listen(runtime).kind == "absent"


def test_an_event_without_an_end_is_not_kept_in_memory(docker: FakeDocker, runtime: DockerRuntime) -> None:
    sent = 0

    def say(speaking: Speaking) -> None:
        nonlocal sent
        speaking.begin(200)
        while sent < 200:
            speaking.chunk(b"x" * 2**16)
            sent += 1

    docker.answers["GET /events"] = say
    assert listen(runtime).kind == "bad_answer"
    assert sent < 100


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("said", [b"", b'{"Action": "top"}\n'])
def test_a_connection_that_nobody_ends_is_let_go(
    docker: FakeDocker, runtime: DockerRuntime, said: bytes
) -> None:
    """Half open since the other side lost power, or an engine that heeds no `until`."""
    over = threading.Event()

    def say(speaking: Speaking) -> None:
        speaking.begin(200)
        while not over.wait(0.05):
            if said:
                speaking.chunk(said)

    docker.answers["GET /events"] = say
    begun = time.monotonic()
    try:
        assert listen(runtime).kind == "hanging"
    finally:
        over.set()
    assert time.monotonic() - begun < 5.0


@pytest.mark.usefixtures("short")
def test_events_that_come_in_pieces_are_heard(docker: FakeDocker, runtime: DockerRuntime) -> None:
    about = b'{"Action": "die", "Actor": {"Attributes": {"name": "ollama", "exitCode": "137"}}}\n'
    heard: list[Told] = []

    def say(speaking: Speaking) -> None:
        speaking.begin(200)
        for piece in (about[:10], about[10:] + about[:40], about[40:]):
            speaking.chunk(piece)
        time.sleep(0.25)
        speaking.chunk(b"")

    docker.answers["GET /events"] = say
    runtime.listen("ollama", heard.append, lambda: not heard)
    assert heard == [Told(Happening.ENDED, 137)] * 2


@pytest.mark.parametrize("left", [0.0, -1.0])
def test_without_time_left_docker_hangs_and_is_not_even_asked(
    docker: FakeDocker, runtime: DockerRuntime, left: float
) -> None:
    server = ServerReading(4_000_000, 1, 0, f"/docker/{ID}", "argv says serve")
    assert failed(lambda: runtime.find(server, left)).kind == "hanging"
    assert failed(lambda: runtime.read("ollama", left)).kind == "hanging"
    assert failed(lambda: runtime.facts("ollama", 0, left)).kind == "hanging"
    assert docker.asked == []


def test_an_answer_without_an_end_is_not_kept_in_memory(docker: FakeDocker, runtime: DockerRuntime) -> None:
    sent = 0

    def say(speaking: Speaking) -> None:
        nonlocal sent
        speaking.begin(200)
        while sent < 2000:
            speaking.chunk(b" " * 2**16)
            sent += 1

    docker.answers["GET /containers/ollama/json"] = say
    assert failed(lambda: runtime.read("ollama", SECONDS)).kind == "bad_answer"
    assert sent < 1000


def test_an_answer_that_drips_ends_with_its_deadline(docker: FakeDocker, runtime: DockerRuntime) -> None:
    over = threading.Event()

    def say(speaking: Speaking) -> None:
        speaking.begin(200)
        while not over.wait(0.05):
            speaking.chunk(b" ")

    docker.answers["GET /containers/ollama/json"] = say
    begun = time.monotonic()
    try:
        assert failed(lambda: runtime.read("ollama", 1.0)).kind == "hanging"
    finally:
        over.set()
    assert time.monotonic() - begun < 4.0
