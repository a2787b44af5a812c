"""The health check and the entrypoint in a real container: what Docker makes of each verdict of the guard."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beds.docker import Container, DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.onlookers import Neighbour
from ollama_guard.control.public import write_status
from ollama_guard.core.model import Condition, Level
from ollama_guard.core.state import ConditionState
from ollama_guard.core.status import view
from ollama_guard.testing.scenario import World

HOOK = Path(__file__).parents[2] / "packaging" / "docker"
SECOND = 1_000_000_000
QUICK = '[playbook.freeze]\nstuck_after = "5s"\nyoung_for = "0s"\n'
"""The guard's configuration: how soon what stands still is a freeze."""

SOON = 'poll = "2s"\nunresponsive_after = "4s"\nrequest_timeout = "3s"\n'

VERDICT_SECONDS = 30
"""Until Docker has checked again; it checks each second here."""
OLLAMA = """#!/bin/sh
[ "$1" = list ] || exec sleep 600
[ ! -e /var/lib/home/hangs ] || exec sleep 60
[ ! -e /var/lib/home/fails ] || { echo 'Error: could not connect' >&2; exit 1; }
"""


def told(home: Path, condition: Condition | None, level: Level = Level.OK, age_seconds: float = 0) -> None:
    """The guard's own status file."""
    world = World()
    world.play(3)
    snapshot = world.snapshot()
    held = () if condition is None else (ConditionState(condition, snapshot.now, snapshot.now, "so it is"),)
    state = replace(world.state, conditions=held, level=level)
    write_status(home / "public", view(world.policy, state, snapshot, {"version": "1"}))
    at = time.time() - age_seconds
    os.utime(home / "public" / "status.json", (at, at))


def verdict(container: Container, since: float) -> tuple[str, str]:
    """Docker's status after the next two whole checks, and the last line."""
    end = time.monotonic() + VERDICT_SECONDS
    while time.monotonic() < end:
        health: dict[str, Any] = container.state.get("Health") or {}
        log = [entry for entry in health.get("Log") or [] if entry["Start"] > stamp(since)]
        if len(log) >= 2:
            return str(health["Status"]), str(log[-1]["Output"]).strip()
        time.sleep(0.2)
    pytest.fail("Docker has not checked again")


def stamp(epoch: float) -> str:
    """As Docker writes it, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch + 1))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What is mounted: an `ollama`, the status folder, the environment file."""
    (tmp_path / "public").mkdir()
    (tmp_path / "ollama").write_text(OLLAMA, encoding="utf-8")
    (tmp_path / "ollama").chmod(0o755)
    return tmp_path


def started(engine: DockerEngine, home: Path, *options: str) -> Container:
    """Ollama's container as compose.yml makes it."""
    return engine.run(
        ["serve"],
        entrypoint=["/bin/sh", "/var/lib/hook/ollama-guard-entrypoint"],
        binds=[f"{HOOK}:/var/lib/hook:ro", f"{home}:/var/lib/home:ro"],
        environment=[
            "PATH=/var/lib/home:/usr/bin:/bin",
            "OLLAMA_GUARD_EXEC=/var/lib/home/ollama",
            "OLLAMA_GUARD_ENV_FILE=/var/lib/home/ollama.env",
            "OLLAMA_GUARD_STATUS=/var/lib/home/public/status.json",
        ],
        healthcheck={
            "test": ["CMD", "/bin/sh", "/var/lib/hook/ollama-health", "--timeout", "1", *options],
            "interval": SECOND, "timeout": 15 * SECOND, "retries": 1,
        },
    )  # fmt: skip


def environment_of(container: Container) -> list[bytes]:
    """What Ollama was started with, once the entrypoint has become it."""
    folder, deadline = Path(f"/proc/{container.pid}"), time.monotonic() + 30.0
    while b"sleep" not in (folder / "cmdline").read_bytes():
        assert time.monotonic() < deadline, (folder / "cmdline").read_bytes()
        time.sleep(0.05)
    return (folder / "environ").read_bytes().split(b"\0")


def test_docker_hears_each_verdict(docker_engine: DockerEngine, home: Path) -> None:
    container = started(docker_engine, home)
    stories = [
        ("healthy", "no news of a guard", lambda: None),
        ("healthy", "memory is at level ok", lambda: told(home, None)),
        ("healthy", "memory is at level critical",
         lambda: told(home, Condition.MEMORY_PRESSURE, Level.CRITICAL)),
        ("unhealthy", "the guard says Frozen: so it is", lambda: told(home, Condition.FROZEN)),
        ("healthy", "so it has no opinion", lambda: told(home, Condition.FROZEN, age_seconds=90)),
        ("unhealthy", "Error: could not connect", (home / "fails").touch),
        ("unhealthy", "did not answer within 1 s", (home / "hangs").touch),
    ]  # fmt: skip
    for status, words, happens in stories:
        happens()
        seen, line = verdict(container, time.time())
        assert (seen, words in line) == (status, True), line
    (home / "hangs").unlink()
    (home / "fails").unlink()
    assert verdict(container, time.time())[0] == "healthy"


def test_strict_is_for_those_who_only_look(docker_engine: DockerEngine, home: Path) -> None:
    told(home, Condition.MEMORY_PRESSURE, Level.HARD)
    strict = started(docker_engine, home, "--strict")
    assert verdict(strict, time.time())[0] == "unhealthy"


def test_checks_leave_nothing_for_a_first_process_that_reaps_nobody(
    docker_engine: DockerEngine, home: Path
) -> None:
    (home / "hangs").touch()
    container = started(docker_engine, home)
    verdict(container, time.time())
    (home / "hangs").unlink()
    verdict(container, time.time())
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
    assert children.read_text(encoding="ascii").split() == []


def test_a_restart_takes_over_what_the_guard_wrote(docker_engine: DockerEngine, home: Path) -> None:
    container = started(docker_engine, home)
    assert b"OLLAMA_NUM_PARALLEL=1" not in environment_of(container)
    (home / "ollama.env").write_text("OLLAMA_NUM_PARALLEL=1\nPATH=/nowhere\n", encoding="utf-8")
    container.act("restart", 1)
    environment = environment_of(container)
    assert b"OLLAMA_NUM_PARALLEL=1" in environment
    assert b"PATH=/nowhere" not in environment


def test_a_real_ollama_that_stops_is_unhealthy_and_is_healthy_again_with_a_guard_beside_it(
    docker_engine: DockerEngine,
    docker_ollama: Callable[..., ContainerOllama],
    ollama_installation: Installation,
    tmp_path: Path,
) -> None:
    """The real program is the client too, and the status is a running guard's, which may touch nothing."""
    home = tmp_path / "guard"
    public = home / "state" / "public"
    public.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ollama").symlink_to(ollama_installation.program)
    server = docker_ollama(
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "OLLAMA_GUARD_STATUS": "/var/public/status.json"},
        container={
            "entrypoint": ["/bin/sh", "/var/lib/ollama-guard-entrypoint"],
            "binds": [f"{HOOK}:/var/lib:ro", f"{tmp_path}/bin:{tmp_path}/bin:ro", f"{public}:/var/public:ro"],
            "healthcheck": {
                "test": ["CMD", "/bin/sh", "/var/lib/ollama-health", "--timeout", "3"],
                "interval": SECOND, "timeout": 15 * SECOND, "retries": 1,
            },
        },
    )  # fmt: skip
    neighbour, container = Neighbour(docker_engine), server.container
    assert container is not None
    assert verdict(container, time.time()) == (
        "healthy", "healthy: Ollama answers; no news of a guard at /var/public/status.json"
    )  # fmt: skip
    where = {"DOCKER_HOST": docker_engine.url}
    with Guard(
        server.url, cgroup=f"/{docker_engine.cgroup}", config=QUICK, ollama=SOON, home=home, env=where
    ) as guard:
        guard.wait_guarding(server.pid)
        guard.wait_event("runtime.found", VERDICT_SECONDS, kind="docker")
        seen, line = verdict(container, time.time())
        assert (seen, "the guard says that memory is at level ok" in line) == ("healthy", True), line
        os.kill(server.pid, signal.SIGSTOP)
        assert verdict(container, time.time()) == ("unhealthy", "unhealthy: Ollama did not answer within 3 s")
        guard.wait_event("runtime.told", VERDICT_SECONDS, happening="unhealthy")
        guard.wait_event("condition.changed", 60.0, condition="Frozen", holds=True)
        os.kill(server.pid, signal.SIGCONT)
        server.wait_answering(VERDICT_SECONDS)
        guard.wait_event("runtime.told", VERDICT_SECONDS, happening="healthy")
        assert not guard.events("playbook.started")
    neighbour.assert_untouched()
