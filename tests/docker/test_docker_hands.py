"""The `hands` process drives a real container: it is found, constrained, stopped, started, released."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beds.docker import Container, DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.hands import HandsBed
from beds.process import alive, environ_of
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung, ServerReading
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.core.runtime import Limits, RuntimeReading, RuntimeState
from ollama_guard.wire import ActionPosted, Beat, OutcomeReported, RuntimesObserved, ServersTold

MIB = 1024**2
INSIDE = "/var/lib/ollama-guard/env"
SLEEP = ["/bin/sh", "-c", "exec sleep 1000"]
SECONDS = 30.0
"""What Docker takes 0.2 s for takes some seconds when several of these tests share two cores."""


class Bed:
    """Hands with one policy, which a test tells of servers and gives actions."""

    def __init__(self, hands: HandsBed) -> None:
        self.hands = hands
        self._number = 0

    def tell(self, *containers: Container) -> None:
        """The sentinel's servers."""
        servers = (ServerReading(c.pid, 1, 0, c.cgroup, "argv says serve") for c in containers)
        self.hands.channel.send(ServersTold(tuple(servers)))
        self.hands.channel.flush()

    def wait(self, fits: Callable[[RuntimeReading], object]) -> RuntimeReading:
        """Until the newest that is told has a runtime that fits."""
        seen = self.hands.wait_for(RuntimesObserved, lambda m: any(fits(r) for r in m.runtimes), SECONDS)
        return next(reading for reading in seen.runtimes if fits(reading))

    def do(self, kind: ActionKind, seconds: float = SECONDS, **changes: Any) -> Outcome:
        """One action to its end."""
        self._number += 1
        number = self._number
        at = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        action = Action(number, kind, Rung.PLAYBOOK, at, runtime="ollama", **changes)
        self.hands.channel.send(ActionPosted(action))
        self.hands.channel.flush()
        told = self.hands.wait_for(OutcomeReported, lambda m: m.outcome.action_id == number, seconds + 5.0)
        return told.outcome


def policy(engine: DockerEngine, url: str = "http://127.0.0.1:1") -> Policy:
    return Policy(ollama=OllamaPolicy(url=url, docker_host=engine.url))


@pytest.fixture
def entrypoint(tmp_path: Path) -> dict[str, Any]:
    """What makes a container read the environment file of the guard whose state is in ``tmp_path``/state."""
    folder = tmp_path / "state" / "env"
    folder.mkdir(parents=True)
    script = folder / "ollama-guard-entrypoint"
    lines = ('[ ! -f "$0.env" ] || { set -a; . "$0.env"; set +a; }', 'exec "$OLLAMA_GUARD_EXEC" "$@"', "")
    script.write_text("\n".join(lines).replace("$0.env", f"{INSIDE}/ollama.env"))
    return {"entrypoint": ["/bin/sh", f"{INSIDE}/{script.name}"], "binds": [f"{folder}:{INSIDE}:ro"]}


def test_the_real_ollama_in_a_container_is_constrained_stopped_started_and_released(
    docker_engine: DockerEngine,
    docker_ollama: Callable[..., ContainerOllama],
    entrypoint: dict[str, Any],
    tmp_path: Path,
) -> None:
    server = docker_ollama(container={"restart": "always", **entrypoint}, env={"OLLAMA_KEEP_ALIVE": "1h"})
    assert server.container is not None
    with HandsBed(tmp_path, policy(docker_engine, server.url)) as hands:
        bed = Bed(hands)
        bed.tell(server.container)
        found = bed.wait(lambda r: r.name == "ollama" and r.state is RuntimeState.RUNNING)
        assert found.server_pid == server.pid
        assert found.constrainable
        assert found.environment["OLLAMA_KEEP_ALIVE"] == "1h"
        first = server.pid

        lines = (("OLLAMA_KEEP_ALIVE", "30s"), ("OLLAMA_MAX_LOADED_MODELS", "1"))
        done = bed.do(ActionKind.CONSTRAIN, environment=lines, limits=Limits(1024 * MIB, 1.5))
        assert done.kind is OutcomeKind.DONE, done.detail
        assert server.container.limits()["Memory"] == 1024 * MIB
        done = bed.do(ActionKind.STOP)
        assert done.kind is OutcomeKind.DONE, done.detail
        assert not alive(first)
        bed.tell()
        bed.wait(lambda r: r.name == "ollama" and r.state is RuntimeState.STOPPED and r.server_pid is None)

        done = bed.do(ActionKind.START)
        assert done.kind is OutcomeKind.DONE, done.detail
        server.wait_answering(SECONDS)
        assert environ_of(server.pid)["OLLAMA_KEEP_ALIVE"] == "30s"
        assert environ_of(server.pid)["OLLAMA_MAX_LOADED_MODELS"] == "1"
        done = bed.do(ActionKind.RELEASE)
        assert done.kind is OutcomeKind.DONE, done.detail
        assert server.container.limits()["CpuQuota"] == -1
        bed.do(ActionKind.STOP)
        bed.do(ActionKind.START)
        server.wait_answering(SECONDS)
        assert environ_of(server.pid)["OLLAMA_KEEP_ALIVE"] == "1h", "the owner's own value is in force again"


def test_hands_that_were_killed_while_ollama_was_stopped_start_it_again(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    container = docker_engine.run(SLEEP, name="ollama", restart="always")
    with HandsBed(tmp_path, policy(docker_engine)) as hands:
        bed = Bed(hands)
        bed.tell(container)
        bed.wait(lambda r: r.state is RuntimeState.RUNNING)
        assert bed.do(ActionKind.STOP).kind is OutcomeKind.DONE
        hands.process.kill()
        hands.process.wait()
    with HandsBed(tmp_path, policy(docker_engine)) as hands:
        bed = Bed(hands)
        bed.tell()
        bed.wait(lambda r: r.name == "ollama" and r.state is RuntimeState.STOPPED)
        assert bed.do(ActionKind.START).kind is OutcomeKind.DONE
        assert container.state["Running"]


def test_a_docker_that_hangs_costs_neither_beats_nor_the_other_actions(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    container = docker_engine.run(SLEEP, name="ollama")
    with HandsBed(tmp_path, policy(docker_engine)) as hands:
        bed = Bed(hands)
        bed.tell(container)
        bed.wait(lambda r: r.state is RuntimeState.RUNNING)
        docker_engine.freeze()
        hands.forget()
        started = time.monotonic()
        ended = bed.do(ActionKind.STOP, seconds=3.0)
        assert time.monotonic() - started < 3.0 + 2.0
        assert ended.kind is OutcomeKind.FAILED
        assert ended.detail.startswith("hanging: ")
        written = bed.do(ActionKind.CONSTRAIN, seconds=3.0, environment=(("OLLAMA_NUM_PARALLEL", "1"),))
        assert written.kind is OutcomeKind.DONE
        bed.wait(lambda r: r.error == "hanging" and r.name == "ollama")
        assert len(hands.told(Beat)) >= 3
        docker_engine.thaw()
        bed.tell(container)
        hands.forget()
        bed.wait(lambda r: r.error == "" and r.state is RuntimeState.RUNNING)


def test_hands_stay_within_their_budget_with_docker_s_library(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    """Both processes have 60 MiB with Docker; the sentinel takes 16 of them."""
    container = docker_engine.run(SLEEP, name="ollama")
    with HandsBed(tmp_path, policy(docker_engine)) as hands:
        bed = Bed(hands)
        bed.tell(container)
        bed.wait(lambda r: r.state is RuntimeState.RUNNING)
        for _ in range(3):
            assert bed.do(ActionKind.STOP).kind is OutcomeKind.DONE
            assert bed.do(ActionKind.START).kind is OutcomeKind.DONE
        hands.forget()
        beat = hands.wait_for(Beat, lambda b: b.pss_bytes is not None)
        assert (beat.pss_bytes or 0) < 44 * MIB
