"""The Docker adapter against a real engine: what is found, done and refused, and how failures are named."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.disks import hanging_disk
from beds.docker import Container, DockerEngine
from beds.process import alive
from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeKind, RuntimeState
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime
from ollama_guard.hands.adapters.docker.limits import AS_GOOD_AS_NONE_BYTES
from ollama_guard.hands.remembered import RememberedLimits

MIB = 1024**2
SLEEP = ["/bin/sh", "-c", "exec sleep 1000"]
HOLDING = ["/usr/bin/perl", "-e", "my $held = 'x' x (100 * 1024 * 1024); sleep 1000"]
"""Takes 100 MiB, as a runner takes its weights."""

DEADLINE_SECONDS = 20.0
"""What Docker takes 0.2 s for takes some seconds when four of these tests and others share two cores."""


@pytest.fixture
def runtime(docker_engine: DockerEngine, tmp_path: Path) -> DockerRuntime:
    return DockerRuntime(docker_engine.url, tmp_path / "env", RememberedLimits(tmp_path))


def server(container: Container, cgroup: str | None = None) -> ServerReading:
    """The container's first process, as the sentinel would tell it."""
    return ServerReading(
        container.pid, 1, 0, container.cgroup if cgroup is None else cgroup, "argv says serve"
    )


def wait(check: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def refused(call: Callable[[], object]) -> RuntimeFailed:
    with pytest.raises(RuntimeFailed) as caught:
        call()
    return caught.value


def test_a_server_is_found_by_its_cgroup_and_without_one_by_its_pid(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    docker_engine.run(SLEEP)
    container = docker_engine.run(SLEEP, name="ollama")
    for found in (
        runtime.find(server(container), DEADLINE_SECONDS),
        runtime.find(server(container, "/"), DEADLINE_SECONDS),
    ):
        assert found is not None
        assert (found.kind, found.name, found.id) == (RuntimeKind.DOCKER, "ollama", container.id)
        assert found.server_pid == container.pid
        assert found.state is RuntimeState.RUNNING
        assert found.started_at is not None
        assert abs(found.started_at - found.read_at) < 60


def test_the_child_of_a_shell_is_found_and_left_alone_and_a_process_far_down_is_not(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(["/bin/sh", "-c", "sh -c 'sleep 1000; true' ; true"])
    wait(lambda: len(tree(container)) == 3)
    main, child, grandchild = tree(container)
    assert main == container.pid
    seen = [
        runtime.find(ServerReading(pid, 1, 0, container.cgroup, "argv"), DEADLINE_SECONDS)
        for pid in (child, grandchild)
    ]
    assert seen[0] is not None
    assert seen[0].verbs == ()
    assert "sh as its first process" in seen[0].cannot
    assert seen[1] is None


def tree(container: Container) -> list[int]:
    """The PIDs of a container whose processes each have one child."""
    found = [container.pid]
    while children := Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split():
        found.append(int(children[0]))
    return found


def test_a_process_of_no_container_is_not_found(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    docker_engine.run(SLEEP)
    assert runtime.find(ServerReading(1, 1, 0, "/docker/" + "ab" * 32, "argv"), DEADLINE_SECONDS) is None


def test_a_stop_with_restart_always_stays_stopped_and_a_start_brings_it_back(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(SLEEP, restart="always")
    killed = container.pid
    os.kill(killed, signal.SIGKILL)
    wait(lambda: container.pid not in (0, killed))  # so a signal alone would not do
    first = container.pid
    runtime.stop(container.name, DEADLINE_SECONDS)
    assert not alive(first)
    runtime.stop(container.name, DEADLINE_SECONDS)
    time.sleep(1.0)  # Docker restarts after 0.1 s what it restarts
    assert runtime.read(container.name, DEADLINE_SECONDS).state is RuntimeState.STOPPED
    runtime.start(container.name, DEADLINE_SECONDS)
    runtime.start(container.name, DEADLINE_SECONDS)
    again = runtime.read(container.name, DEADLINE_SECONDS)
    assert again.state is RuntimeState.RUNNING
    assert again.server_pid not in (None, first)


def test_a_frozen_process_is_ended_within_the_grace(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(SLEEP, restart="always")
    frozen = container.pid
    os.kill(frozen, signal.SIGSTOP)
    runtime.stop(container.name, DEADLINE_SECONDS)
    assert not alive(frozen)
    assert container.state["Status"] == "exited"


def test_a_process_that_not_even_a_kill_ends_is_stuck_in_time(
    docker_engine: DockerEngine, runtime: DockerRuntime, tmp_path: Path
) -> None:
    """D state: it waits in the kernel for a disk that never answers."""
    with hanging_disk(tmp_path / "disk") as disk:
        container = docker_engine.run(["/bin/sh", "-c", "exec cat /disk/model"], binds=[f"{disk}:/disk"])
        wait(lambda: Path(f"/proc/{container.pid}/comm").read_text() == "cat\n")
        time.sleep(0.5)  # until it has asked the disk; what it waits in then is another state before the kill
        started = time.monotonic()
        problem = refused(lambda: runtime.stop(container.name, 6.0))
        assert time.monotonic() - started < 8.0
        assert problem.kind == "stuck", problem
    wait(lambda: not container.state["Running"])


def test_a_container_whose_shim_hangs_is_stuck_and_not_a_docker_that_hangs(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    """Docker holds the container's lock meanwhile, so that even its `inspect` waits."""
    container = docker_engine.run(SLEEP)
    shim = int(Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGSTOP)
    try:
        started = time.monotonic()
        problem = refused(lambda: runtime.stop(container.name, 6.0))
        assert time.monotonic() - started < 8.0
    finally:
        os.kill(shim, signal.SIGCONT)
    assert problem.kind == "stuck", problem
    wait(lambda: not container.state["Running"])


def test_a_start_that_ends_at_once_is_refused_with_its_exit_code(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(["/no/such/program"], started=False)
    problem = refused(lambda: runtime.start(container.name, DEADLINE_SECONDS))
    assert problem.kind == "refused"
    assert "/no/such/program" in str(problem)


def test_limits_come_live_are_never_below_use_and_are_taken_back(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(HOLDING)
    before = container.limits()
    wait(lambda: used(container) > 100 * MIB)
    (why,) = runtime.limit(container.name, Limits(64 * MIB, 1.5), DEADLINE_SECONDS)
    assert "it uses " in why
    assert container.limits()["Memory"] == 0
    assert container.limits()["CpuQuota"] == 150_000
    assert runtime.limit(container.name, Limits(300 * MIB), DEADLINE_SECONDS) == ()
    assert container.limits()["Memory"] == container.limits()["MemorySwap"] == 300 * MIB
    assert runtime.read(container.name, DEADLINE_SECONDS).memory_limit_bytes == 300 * MIB
    runtime.unlimit(container.name, DEADLINE_SECONDS)
    after = container.limits()
    assert after["Memory"] == after["MemorySwap"] == AS_GOOD_AS_NONE_BYTES, "Docker can't take 0 back"
    assert after["CpuQuota"] == -1
    assert runtime.read(container.name, DEADLINE_SECONDS).memory_limit_bytes is None
    assert before["Memory"] == 0
    assert alive(container.pid)


def used(container: Container) -> int:
    fields = Path(f"/proc/{container.pid}/statm").read_text().split()
    return int(fields[1]) * 4096


def test_the_owner_s_limits_are_not_loosened_and_come_back(
    docker_engine: DockerEngine, runtime: DockerRuntime, tmp_path: Path
) -> None:
    container = docker_engine.run(
        SLEEP, mem_limit=200 * MIB, memswap_limit=300 * MIB, nano_cpus=1_000_000_000
    )
    before = container.limits()
    assert len(runtime.limit(container.name, Limits(300 * MIB, 1.5), DEADLINE_SECONDS)) == 2
    assert container.limits() == before
    assert runtime.limit(container.name, Limits(100 * MIB, 0.5), DEADLINE_SECONDS) == ()
    assert container.limits()["Memory"] == 100 * MIB
    assert container.limits()["MemorySwap"] == 200 * MIB
    assert container.limits()["NanoCpus"] == 500_000_000
    again = DockerRuntime(docker_engine.url, tmp_path / "env", RememberedLimits(tmp_path))
    again.unlimit(container.name, DEADLINE_SECONDS)
    assert container.limits() == before


def test_a_limit_that_docker_refuses_because_of_swap_is_said_and_nothing_breaks(
    docker_engine: DockerEngine, runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory plus swap is limited to less than the new memory, as a person may have done."""
    container = docker_engine.run(SLEEP, mem_limit=100 * MIB, memswap_limit=100 * MIB)
    with runtime._calls(container.name, DEADLINE_SECONDS) as (call, _inspected):
        problem = refused(lambda: call.update(container.id, {"Memory": 200 * MIB}))
    assert problem.kind == "refused"
    assert "memoryswap" in str(problem)
    monkeypatch.setattr(
        "ollama_guard.hands.adapters.docker.limits._memory",
        lambda *_: {"Memory": 90 * MIB, "MemorySwap": 80 * MIB},
    )
    (why,) = runtime.limit(container.name, Limits(90 * MIB), DEADLINE_SECONDS)
    assert "because of swap" in why
    assert alive(container.pid)


def test_a_stopped_container_takes_limits_that_it_could_not_while_it_ran(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(HOLDING)
    wait(lambda: used(container) > 100 * MIB)
    assert len(runtime.limit(container.name, Limits(64 * MIB), DEADLINE_SECONDS)) == 1
    runtime.stop(container.name, DEADLINE_SECONDS)
    assert runtime.limit(container.name, Limits(64 * MIB), DEADLINE_SECONDS) == ()
    assert container.limits()["Memory"] == 64 * MIB


def test_a_paused_container_is_left_as_it_is(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    container = docker_engine.run(SLEEP)
    container.act("pause")
    seen = runtime.read(container.name, DEADLINE_SECONDS)
    assert seen.state is RuntimeState.PAUSED
    assert seen.verbs == ("limit",)
    for call in (runtime.stop, runtime.start):
        assert refused(lambda call=call: call(container.name, DEADLINE_SECONDS)).kind == "refused"  # type: ignore[misc]
    assert container.state["Paused"]


def test_a_container_that_would_be_deleted_is_never_stopped(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(SLEEP, auto_remove=True)
    seen = runtime.read(container.name, DEADLINE_SECONDS)
    assert seen.auto_remove
    assert "stop" not in seen.verbs
    assert "--rm" in refused(lambda: runtime.stop(container.name, DEADLINE_SECONDS)).args[0]
    assert container.state["Running"]


@pytest.mark.parametrize("namespace", ["network_mode", "pid_mode", "ipc_mode"])
def test_a_container_whose_namespaces_others_live_in_is_never_stopped(
    docker_engine: DockerEngine, runtime: DockerRuntime, namespace: str
) -> None:
    container = docker_engine.run(SLEEP, name="ollama", ipc_mode="shareable", network_mode="none")
    assert "stop" in runtime.read("ollama", DEADLINE_SECONDS).verbs
    other = docker_engine.run(
        SLEEP, name="webui", **{"network_mode": "none", namespace: f"container:{container.id}"}
    )
    seen = runtime.read("ollama", DEADLINE_SECONDS)
    assert seen.shared_by == ("webui",)
    assert "stop" not in seen.verbs
    assert "webui" in refused(lambda: runtime.stop("ollama", DEADLINE_SECONDS)).args[0]
    other.act("kill")
    wait(lambda: not other.state["Running"])
    assert "stop" in runtime.read("ollama", DEADLINE_SECONDS).verbs


def test_entrypoint_mount_label_and_health_are_read(
    docker_engine: DockerEngine, runtime: DockerRuntime, tmp_path: Path
) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    entrypoint = folder / "ollama-guard-entrypoint"
    entrypoint.write_text('#!/bin/sh\nexec "$@"\n')
    container = docker_engine.run(
        SLEEP,
        entrypoint=["/bin/sh", "/var/lib/ollama-guard/env/ollama-guard-entrypoint"],
        binds=[f"{folder}:/var/lib/ollama-guard/env:ro"],
        labels={"ollama-guard.authority": "server"},
        environment=["OLLAMA_MODELS=/models", "OLLAMA_KEEP_ALIVE=1h"],
        healthcheck={"test": ["CMD-SHELL", "exit 1"], "interval": 1_000_000_000, "retries": 1},
    )
    wait(lambda: runtime.read(container.name, DEADLINE_SECONDS).unhealthy)
    seen = runtime.read(container.name, DEADLINE_SECONDS)
    assert seen.constrainable
    assert seen.authority
    assert seen.environment == {"OLLAMA_KEEP_ALIVE": "1h"}
    plain = runtime.read(docker_engine.run(SLEEP).name, DEADLINE_SECONDS)
    assert (plain.constrainable, plain.authority, plain.unhealthy) == (False, False, False)
    assert str(folder) in plain.hint


def test_a_container_that_is_gone_is_named_so(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    container = docker_engine.run(SLEEP)
    runtime.read(container.name, DEADLINE_SECONDS)
    docker_engine.clear()
    for call in (runtime.read, runtime.stop, runtime.start, runtime.unlimit):
        assert refused(lambda call=call: call(container.name, DEADLINE_SECONDS)).kind == "gone"  # type: ignore[misc]


def test_a_docker_that_hangs_is_named_in_time_and_used_again_when_it_is_back(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(SLEEP)
    docker_engine.freeze()
    for call in (runtime.read, runtime.stop, runtime.start):
        started = time.monotonic()
        assert refused(lambda call=call: call(container.name, 1.0)).kind == "hanging"  # type: ignore[misc]
        assert time.monotonic() - started < 2.5
    docker_engine.thaw()
    assert runtime.read(container.name, DEADLINE_SECONDS).state is RuntimeState.RUNNING


def test_a_docker_that_is_stopped_is_absent_and_one_that_was_restarted_is_used_again(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    container = docker_engine.run(SLEEP, restart="always")
    runtime.read(container.name, DEADLINE_SECONDS)
    docker_engine.stop()
    assert refused(lambda: runtime.read(container.name, DEADLINE_SECONDS)).kind == "absent"
    docker_engine.start()
    wait(lambda: runtime.read(container.name, DEADLINE_SECONDS).state is RuntimeState.RUNNING)
    runtime.stop(container.name, DEADLINE_SECONDS)
    assert runtime.read(container.name, DEADLINE_SECONDS).state is RuntimeState.STOPPED


def test_a_stop_whose_docker_dies_in_the_middle_ends_in_time_with_a_name(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    """PID 1 of a container ignores SIGTERM unless it handles it, so a stop takes two seconds."""
    container = docker_engine.run(SLEEP)
    runtime.read(container.name, DEADLINE_SECONDS)
    killer = threading.Timer(0.5, docker_engine.stop)
    killer.start()
    started = time.monotonic()
    problem = refused(lambda: runtime.stop(container.name, 10.0))
    assert problem.kind in ("absent", "hanging", "stuck")
    assert time.monotonic() - started < 12.0
    killer.join()
