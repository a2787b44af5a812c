"""Processes that look like Ollama's, on a machine at its limit: the guard would rather do nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.decoys import LAST_PID, Decoy, PidTakenError, at_pid
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.handling import look, wait_look
from beds.hog import Hog
from beds.process import Started, alive, argv_of, launch
from beds.yard import GIB, MIB

SYSTEM_PYTHON = Path("/usr/bin/python3")
SOMEBODY = 65534
ORPHAN = "import os, sys\nos.fork() and os._exit(0)\nos.setsid()\nos.execv(sys.argv[1], sys.argv[1:])"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a memory cgroup needs root")


@pytest.fixture
def yard() -> Iterator[tuple[MemoryCgroup, FakeServer]]:
    """A cgroup of 1 GiB with a fake Ollama in it."""
    try:
        with MemoryCgroup(1 * GIB, "decoy") as cgroup, FakeServer(cgroup.join_paths) as server:
            yield cgroup, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def orphaned(argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
    """A launcher whose program's parent is gone at once."""
    return launch([sys.executable, "-c", ORPHAN, *argv], env=env, **kwargs)


def showing(argv: Sequence[str], but: int) -> int:
    """The PID of the process that shows this command line, besides the one that we know of."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != but and argv_of(int(entry.name)) == list(argv):
            return int(entry.name)
    raise ProcessLookupError(argv)


def as_somebody(cgroup: MemoryCgroup) -> Callable[..., Started]:
    """A launcher inside the cgroup, as another user, on a Python that this user may read."""

    def start(argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
        started = launch(argv, env=env, executable=str(SYSTEM_PYTHON), user=SOMEBODY, **kwargs)
        cgroup.add(started.pid)
        return started

    return start


def test_lookalikes_survive_a_machine_at_its_limit(yard: tuple[MemoryCgroup, FakeServer]) -> None:
    """Ollama's own idle model goes; then memory falls to critical, and none of these is touched."""
    cgroup, server = yard
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(
            Guard(server.url, cgroup=f"/{cgroup.name}", ollama='user = "root"\npoll = "1s"\n')
        )
        guard.wait_guarding(server.pid)
        server.load("tiny")
        wait_look(guard, lambda told: "idle" in [m["state"] for m in told["models"]], "tiny is idle")
        # The very command line of Ollama's runner, on Ollama's blob, of the same user, as a child of init.
        real = server.runner_pids()["tiny"]
        runner = argv_of(real)
        stack.enter_context(twin := Decoy(runner, memory_bytes=200 * MIB, launcher=orphaned))
        strangers = {"the orphan elsewhere": showing(twin.argv, but=real)}
        mine = Decoy.llama_server(server.blob("mid"), memory_bytes=200 * MIB, launcher=cgroup.popen)
        strangers["a user's own"] = stack.enter_context(mine).pid
        if SYSTEM_PYTHON.exists():
            other = Decoy(["/usr/bin/ollama", "serve"], memory_bytes=100 * MIB, launcher=as_somebody(cgroup))
            strangers["somebody's server"] = stack.enter_context(other).pid
        hog = stack.enter_context(Hog(cgroup.popen))
        hog.grow(680 * MIB, 600 * MIB)
        guard.wait_event("model.unloaded", 15)
        wait_look(guard, lambda told: told["level"] == "critical", "critical")
        time.sleep(1.5)
        told = look(guard)
        assert told["level"] == "critical", told["domains"]
        assert {name for name, pid in strangers.items() if not alive(pid)} == set(), guard.tail()
        assert told["models"] == []
        acted_on = {event.get("pid") for event in guard.events("runner.killed")}
        assert acted_on.isdisjoint(strangers.values())
        assert {event["pid"] for event in guard.events("ollama.found") if "pid" in event} == {server.pid}


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="the kernel does not let us choose a PID")
def test_a_reused_pid_is_never_signalled(yard: tuple[MemoryCgroup, FakeServer]) -> None:
    """While the guard sleeps its victim dies, and another process gets the PID, the name and the argv."""
    cgroup, server = yard
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(Guard(server.url, cgroup=f"/{cgroup.name}"))
        guard.wait_guarding(server.pid)
        server.load("tiny")
        wait_look(guard, lambda told: "idle" in [m["state"] for m in told["models"]], "tiny is idle")
        victim = server.runner_pids()["tiny"]
        shown = argv_of(victim)
        hog = stack.enter_context(Hog(cgroup.popen))
        os.kill(guard.pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        while Path(f"/proc/{victim}").exists():
            time.sleep(0.005)
        decoy = Decoy(shown, memory_bytes=200 * MIB, launcher=at_pid(victim, cgroup.popen))
        try:
            stack.enter_context(decoy)
        except PidTakenError:
            os.kill(guard.pid, signal.SIGCONT)
            pytest.skip("others were quicker to take the PID")
        hog.grow(cgroup.available() - 30 * MIB, 2000 * MIB)
        assert hog.wait(10)
        os.kill(guard.pid, signal.SIGCONT)
        wait_look(guard, lambda told: told["level"] == "critical", "critical", 15)
        time.sleep(1.5)
        assert alive(decoy.pid), guard.tail()
        assert not guard.events("runner.killed"), guard.tail()
        assert look(guard)["models"] == []
