"""A frozen Ollama in a container is recovered while six clients ask without pause for what can't fit."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from beds.clients import RetryClient
from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.freezes import FREEZES, Freeze
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.onlookers import Neighbour, RunnerWatch
from beds.process import Started, alive, launch
from beds.real_ollama import own_shelf

SECONDS = 240.0
MIB = 1024**2
CLIENTS = 6
PAUSE_SECONDS = 0.01
"""As good as none; a client that is refused in less would only take the CPU from all others."""
HIDDEN_BYTES = 100 * MIB
"""What a runner of the model that can't fit may hold at most, once Ollama runs again without it."""
AFTER_SECONDS = 5.0
"""For which the clients go on after the recovery."""
FROZEN_SECONDS = 15.0
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "10min"\n'

Start = Callable[..., ContainerOllama]
Freezing = tuple[ContainerOllama, Freeze]


@pytest.fixture
def models(ollama_installation: Installation, tmp_path: Path) -> Path:
    """A model that fits and one that can't."""
    return own_shelf(ollama_installation, tmp_path / "models", only=("tiny", "big"))


@pytest.fixture(params=FREEZES)
def freezing(
    request: pytest.FixtureRequest, docker_ollama: Start, models: Path, tmp_path: Path
) -> Iterator[Freezing]:
    """A server of 600 MiB, and the way in which it will freeze."""
    with ExitStack() as stack:
        freeze = stack.enter_context(FREEZES[request.param](tmp_path))
        options = {"restart": "always", "mem_limit": 600 * MIB, **freeze.container}
        yield docker_ollama(models=models, container=options), freeze


def hungry(stack: ExitStack, server: ContainerOllama) -> list[RetryClient]:
    """Six clients who want the model that can't fit, and are at it when this returns."""
    clients = [RetryClient(server.url, "big", interval_seconds=PAUSE_SECONDS) for _ in range(CLIENTS)]
    for client in clients:
        stack.enter_context(client)
    return clients


def answers(server: ContainerOllama) -> bool:
    try:
        server.get("/api/version", timeout=5.0)
    except OSError:
        return False
    return True


def wait_silent(server: ContainerOllama) -> None:
    deadline = time.monotonic() + SECONDS
    while answers(server):
        assert time.monotonic() < deadline, "it does not freeze"


def wall(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def steps_text(guard: Guard, frozen_at: float) -> str:
    """How long each step took, one a line; `pytest -rP` shows it."""
    told, at = [], frozen_at
    for event in guard.events():
        if event["event"] in ("playbook.started", "playbook.step", "model.quarantined", "playbook.finished"):
            told.append(f"{wall(event) - at:7.2f} s  {event['event']:<18} {event['message']}\n")
            at = wall(event)
    return "".join([*told, f"{at - frozen_at:7.2f} s  in all\n"])


def test_it_is_recovered_and_the_model_that_cannot_fit_gets_no_memory_whoever_asks_for_it(
    docker_engine: DockerEngine, freezing: Freezing
) -> None:
    with recovered(docker_engine, freezing, HIDDEN_BYTES, ollama=WORD) as guard:
        assert "by renaming" in guard.events("model.quarantined")[0]["message"]


@pytest.mark.parametrize("freezing", ["stopped by a signal"], indirect=True)
def test_where_the_guard_cannot_write_the_model_gets_no_memory_either_until_the_api_hides_it(
    docker_engine: DockerEngine, freezing: Freezing, models: Path
) -> None:
    """As for the installed service with its `ProtectSystem=strict`: read-only for the guard alone."""
    alone = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'

    def launcher(argv: Sequence[str], **options: Any) -> Started:
        return launch(["unshare", "--mount", "sh", "-c", alone, str(models), *argv], **options)

    word = f'{WORD}models_folder = "{models}"\n'
    with recovered(docker_engine, freezing, HIDDEN_BYTES, ollama=word, launcher=launcher) as guard:
        hidden = guard.events("model.quarantined")[0]
        assert "by the API" in hidden["message"]
        stopped_at = next(wall(e) for e in guard.events("playbook.step") if e["step"] == "stop")
        assert wall(hidden) > stopped_at
        early = [e for e in guard.events("load.aborted") if stopped_at < wall(e) < wall(hidden)]
        assert early, "nobody asked for it in between"
        assert guard.events("blob.condemned")


@contextmanager
def recovered(engine: DockerEngine, freezing: Freezing, most_bytes: int, **options: Any) -> Iterator[Guard]:
    """A guard that has recovered it while six clients kept asking for what can't fit, and got no more."""
    server, freeze = freezing
    neighbour, before = Neighbour(engine), server.pid
    with ExitStack() as stack:
        watch = stack.enter_context(RunnerWatch(engine, server.blob("big")))
        where = {"DOCKER_HOST": engine.url}
        guard = stack.enter_context(
            Guard(server.url, cgroup=f"/{engine.cgroup}", config=QUICK, env=where, **options)
        )
        guard.wait_guarding(before)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        clients = hungry(stack, server)
        frozen_at = time.time()
        freeze.begin(server)
        ended = guard.wait_event("playbook.finished", SECONDS)
        time.sleep(AFTER_SECONDS)
        sys.stdout.write(steps_text(guard, frozen_at))
        assert ended["outcome"] == "done", guard.tail()
        assert server.alive
        assert server.pid != before
        assert "big" not in server.installed()
        server.load("tiny")
        started_at = next(wall(e) for e in guard.events("playbook.step") if e["step"] == "stop")
        assert watch.longest_gap_seconds(started_at) < 5.0, "nobody looked"
        held_bytes = watch.most_bytes(started_at)
        sys.stdout.write(f"the most that a runner of big held: {held_bytes / MIB:.0f} MiB\n")
        assert held_bytes < most_bytes
        heard = [a for c in clients for a in c.attempts if a.at > time.monotonic() - AFTER_SECONDS]
        assert {a.status for a in heard} <= {404, None}, heard[:5]
        neighbour.assert_untouched()
        yield guard


def test_without_the_guard_it_stays_frozen(freezing: Freezing) -> None:
    """The control: nothing else ends such a freeze, least of all Docker's restart policy."""
    server, freeze = freezing
    before = server.pid
    with ExitStack() as stack:
        freeze.begin(server)
        wait_silent(server)
        hungry(stack, server)
        end = time.monotonic() + FROZEN_SECONDS
        while time.monotonic() < end:
            assert not answers(server)
        assert alive(before)
        assert server.pid == before
