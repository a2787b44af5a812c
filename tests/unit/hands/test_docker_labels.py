"""What is read out of ``docker inspect``, from a Docker that answers, refuses, hangs or is not there."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ollama_guard.core.machine import ComposeFacts
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker_labels import facts_of, inspect

INSPECTED = {
    "Id": "a" * 64,
    "Name": "/llm_ollama_1",
    "Config": {
        "Image": "ollama/ollama:latest",
        "Entrypoint": ["/bin/ollama"],
        "Cmd": ["serve"],
        "Env": ["OLLAMA_HOST=0.0.0.0:11434", "OLLAMA_KEEP_ALIVE=-1", "BARE"],
        "Labels": {
            "com.docker.compose.service": "ollama",
            "com.docker.compose.project.working_dir": "/srv/llm",
            "com.docker.compose.project.config_files": "docker-compose.yml,gpu.yml",
            "com.docker.compose.version": "1.29.2",
            "ollama-guard.authority": "server",
        },
    },
    "HostConfig": {
        "Memory": 3221225472,
        "NetworkMode": "llm_default",
        "AutoRemove": False,
        "PortBindings": {"11434/tcp": [{"HostIp": "", "HostPort": "11434"}, {"HostIp": "127.0.0.1"}]},
    },
    "Mounts": [{"Source": "/var/lib/docker/volumes/llm/_data", "Destination": "/root/.ollama"}],
}
Answers = Callable[[bytes], str]


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Answers]:
    """Serves one raw answer on a socket like Docker's; returns its address."""
    with ExitStack() as stack:

        def serve(answer: bytes) -> str:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(tmp_path / "docker.sock"))
            listener.listen()

            def once() -> None:
                with listener.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    if not answer:
                        connection.recv(1)  # until the other side gives up

            thread = threading.Thread(target=once, daemon=True)
            thread.start()
            stack.callback(thread.join, 5.0)
            return f"unix://{tmp_path / 'docker.sock'}"

        yield serve


def http(status: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def test_a_container_of_composes_is_read(docker: Answers) -> None:
    facts = inspect("a" * 64, docker(http("200 OK", INSPECTED)), 5.0)
    assert (facts.name, facts.entrypoint, facts.command) == ("llm_ollama_1", ("/bin/ollama",), ("serve",))
    assert facts.compose == ComposeFacts("/srv/llm", ("docker-compose.yml", "gpu.yml"), "ollama", "1.29.2")
    assert facts.environment == {"OLLAMA_HOST": "0.0.0.0:11434", "OLLAMA_KEEP_ALIVE": "-1"}
    assert facts.published == ("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert facts.memory_limit_bytes == 3 * 1024**3
    assert facts.models_source == "/var/lib/docker/volumes/llm/_data/models"
    assert facts.authority
    assert (facts.host_network, facts.auto_remove) == (False, False)


@pytest.mark.parametrize(
    "odd", [{}, {"Config": None, "HostConfig": [], "Mounts": {}}, {"Config": {"Env": 7, "Labels": "x"}}]
)
def test_what_is_missing_or_odd_is_left_out(odd: dict[str, object]) -> None:
    facts = facts_of(odd)
    assert (facts.compose, facts.memory_limit_bytes, facts.environment) == (None, None, {})


def test_a_plain_container_has_no_compose_project() -> None:
    labels = {"com.docker.compose.service": "ollama"}  # half of what compose writes
    assert facts_of({"Config": {"Labels": labels, "Entrypoint": "/bin/x"}}).compose is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http("404 Not Found", {"message": "No such container"}), "gone"),
        (http("500 Internal Server Error", {"message": "oh"}), "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "bad_answer"),
        (b"", "hanging"),
    ],
)
def test_a_docker_that_fails_has_a_name_for_it(docker: Answers, answer: bytes, kind: str) -> None:
    with pytest.raises(RuntimeFailed) as failed:
        inspect("a" * 64, docker(answer), 0.5)
    assert failed.value.kind == kind


def test_no_docker_at_all_and_an_address_of_another_kind(tmp_path: Path) -> None:
    for address, kind in ((f"unix://{tmp_path}/none.sock", "absent"), ("ssh://box", "unsupported")):
        with pytest.raises(RuntimeFailed) as failed:
            inspect("x", address, 0.5)
        assert failed.value.kind == kind
