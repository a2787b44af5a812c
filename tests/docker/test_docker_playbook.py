"""The whole guard recovers a frozen Ollama in a real container, alone, also when it is killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beds.cutting_proxy import CuttingProxy
from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.handling import look, wait_look
from beds.http import request
from beds.ollama_install import Installation
from beds.onlookers import Neighbour
from beds.real_ollama import own_shelf

SECONDS = 180.0
AWAY_SECONDS = 8.0  # longer than the guard waits for an answer
MIB = 1024**2
WORD = 'authority = "server"\npoll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\nquiet = "30s"\n'

CALLS = ("update", "stop", "start")
"""What is asked of Docker in one run, in this order: all that changes anything."""

Frozen = tuple[Guard, ContainerOllama, int]


@pytest.fixture
def proxy(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[CuttingProxy]:
    """Between the guard of `frozen` and Docker, if a test asks for it."""
    with CuttingProxy(Path(docker_engine.url.removeprefix("unix://")), tmp_path / "docker.sock") as between:
        yield between


@pytest.fixture
def frozen(
    request: pytest.FixtureRequest,
    docker_engine: DockerEngine,
    docker_ollama: Callable[..., ContainerOllama],
    ollama_installation: Installation,
    tmp_path: Path,
) -> Iterator[Frozen]:
    """A guarded server of 600 MiB with a model that fits and one that can't, stopped by a signal just now.

    Without the guard it would stay so for ever: to Docker it is a running container. Its neighbour is never
    touched.
    """
    neighbour = Neighbour(docker_engine)
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny", "big"))
    server = docker_ollama(models=models, container={"restart": "always", "mem_limit": 600 * MIB})
    has_proxy = "proxy" in request.fixturenames
    docker = {"DOCKER_HOST": request.getfixturevalue("proxy").url if has_proxy else docker_engine.url}
    with Guard(server.url, cgroup=f"/{docker_engine.cgroup}", ollama=WORD, config=QUICK, env=docker) as guard:
        guard.wait_guarding(server.pid)
        guard.wait_event("runtime.found", SECONDS, kind="docker")
        before = server.pid
        os.kill(before, signal.SIGSTOP)
        yield guard, server, before
    neighbour.assert_untouched()


def begun(guard: Guard, step: str) -> None:
    """Wait until a step of the run has been decided on."""
    guard.wait(
        lambda: any(f"freeze: {step} " in event["message"] for event in guard.events("decision.made")),
        SECONDS,
        f"the step {step}",
    )


def assert_recovered(guard: Guard, server: ContainerOllama, before: int) -> None:
    """Another server answers, what fits is there, what can't is hidden, and the run has ended well."""
    ended = guard.wait_event("playbook.finished", SECONDS)
    assert ended["outcome"] == "done", guard.tail()
    assert server.alive
    assert server.pid != before
    listed = {entry["name"] for entry in request(server.url, "GET", "/api/tags")["models"]}
    assert "tiny:latest" in listed
    assert "big:latest" not in listed


def test_a_server_that_was_stopped_by_a_signal_is_recovered_and_what_cannot_fit_is_hidden(
    frozen: Frozen,
) -> None:
    guard, server, before = frozen
    assert_recovered(guard, server, before)
    steps = [event["step"] for event in guard.events("playbook.step")]
    assert steps == ["constrain", "stop", "start", "verify"]
    assert len(guard.events("model.quarantined")) == 1


@pytest.mark.parametrize("step", ["constrain", "stop", "hide", "start", "verify"])
def test_a_guard_that_is_killed_when_a_step_has_begun_goes_on_from_there(frozen: Frozen, step: str) -> None:
    guard, server, before = frozen
    begun(guard, step)
    guard.kill()
    guard.start()
    assert_recovered(guard, server, before)


@pytest.mark.parametrize("after", [False, True], ids=["on its way", "done but unanswered"])
@pytest.mark.parametrize("number", range(1, len(CALLS) + 1))
def test_a_guard_that_is_killed_around_a_call_to_docker_goes_on_from_there(
    proxy: CuttingProxy, frozen: Frozen, number: int, *, after: bool
) -> None:
    guard, server, before = frozen
    moment = proxy.cut(number, guard.kill, after=after)
    assert moment.reached.wait(SECONDS), guard.tail()
    guard.start()
    assert_recovered(guard, server, before)
    made = [call.partition("?")[0].rpartition("/")[2] for call in proxy.calls]
    assert made[:number] == list(CALLS[:number])
    assert set(made) == set(CALLS)


@pytest.mark.parametrize("after", [False, True], ids=["before it is made", "when it is done"])
def test_docker_that_is_killed_around_the_start_is_waited_for(
    proxy: CuttingProxy, frozen: Frozen, docker_engine: DockerEngine, *, after: bool
) -> None:
    """Not in its middle: of half a start containerd keeps a rest that no Docker can start or clear again."""
    guard, server, before = frozen
    moment = proxy.cut(CALLS.index("start") + 1, docker_engine.kill, after=after)
    assert moment.reached.wait(SECONDS), guard.tail()
    time.sleep(AWAY_SECONDS)
    docker_engine.start()
    assert_over(guard, server, before)


def hangs(engine: DockerEngine) -> None:
    """Docker answers nobody for a while."""
    engine.freeze()
    time.sleep(AWAY_SECONDS)
    engine.thaw()


def is_killed(engine: DockerEngine) -> None:
    """Docker dies, and is back after a while; its containers live on, and nobody looks after them."""
    engine.kill()
    time.sleep(AWAY_SECONDS)
    engine.start()


def is_restarted(engine: DockerEngine) -> None:
    """Docker ends and its containers with it; when it is back it starts what was not stopped by hand."""
    engine.stop()
    engine.start()


@pytest.mark.parametrize(
    ("away", "step"),
    [(hangs, "stop"), (hangs, "start"), (is_killed, "stop"), (is_restarted, "stop"), (is_restarted, "start")],
)
def test_docker_that_goes_away_in_the_middle_costs_no_more_than_its_absence(
    frozen: Frozen, docker_engine: DockerEngine, step: str, away: Callable[[DockerEngine], None]
) -> None:
    """Ollama serves in the end, and what began is over; a fresh one that Docker started itself is let be."""
    guard, server, before = frozen
    begun(guard, step)
    away(docker_engine)
    seconds = assert_over(guard, server, before)
    sys.stdout.write(f"{step}, {away.__name__}: {seconds:.1f} s after its return\n")


def assert_over(guard: Guard, server: ContainerOllama, before: int) -> float:
    """Docker is back: Ollama serves in the end, and no run is begun over and over; seconds until it does."""
    back_at = time.monotonic()
    guard.wait(lambda: guard.events("playbook.finished"), SECONDS, "the end of the run")
    server.wait_answering(60.0)
    seconds = time.monotonic() - back_at
    guard.wait(lambda: look(guard)["playbook"]["state"] != "running", 60, "no run goes on")
    assert server.alive
    assert server.pid != before
    assert look(guard)["playbook"]["runs_last_hour"] <= 2, guard.tail()
    assert not guard.events("hands.restarted")
    return seconds


def test_after_a_reboot_what_the_last_boots_guard_set_is_known_to_be_the_guards(frozen: Frozen) -> None:
    """A reboot, as far as the guard can tell: what it keeps in memory is gone, and the disk is as it was."""
    guard, server, before = frozen
    assert_recovered(guard, server, before)
    assert server.container is not None
    assert server.container.limits()["CpuQuota"] > 0
    guard.kill()
    for file in guard.runtime.iterdir():
        file.unlink()
    guard.start()
    wait_look(guard, lambda told: told["playbook"]["state"] == "constrained", "remembered", seconds=60)


def released(guard: Guard) -> subprocess.CompletedProcess[str]:
    """`release`, told by the configuration which servers are meant: others run beside this test."""
    return guard.tell("release", timeout=SECONDS)


def test_a_release_waits_for_the_run_that_goes_on_and_then_undoes_it(frozen: Frozen) -> None:
    guard, server, before = frozen
    guard.wait_event("playbook.started", SECONDS)
    done = released(guard)
    assert (done.returncode, done.stderr.count("waiting for its end")) == (0, 1), done.stderr
    assert guard.events("playbook.finished", outcome="done")
    assert server.pid != before
    assert server.container is not None
    assert server.container.limits()["CpuQuota"] <= 0
    assert "big:latest" in {entry["name"] for entry in request(server.url, "GET", "/api/tags")["models"]}


def test_a_release_after_a_guard_that_died_over_it_leaves_ollama_running(frozen: Frozen) -> None:
    """As when the guard is removed in the middle of a run."""
    guard, server, before = frozen
    begun(guard, "hide")
    guard.kill()
    assert not server.alive
    done = released(guard)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ollama, which the guard had stopped, runs" in done.stdout
    server.wait_answering(60.0)
    assert server.pid != before
    assert released(guard).stdout == "there is nothing to undo\n"
