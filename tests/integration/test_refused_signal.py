"""A guard that may not signal a runner: it holds, says so, does not spin, and does what else it may."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.clients import StreamingClient
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.handling import look, wait_look
from beds.hog import Hog
from beds.process import Started, alive, launch
from beds.yard import GIB, MIB

SOMEBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
# Critical is below 64 MiB here.
LEFT_BYTES = 30 * MIB
# At critical for so long (seconds): the pauses between two tries of a kill that fails are 2 s, then 4 s.
REFUSED_SECONDS = 8.0
TRIES_MOST = 3
# CPU seconds a second: a tick takes a millisecond, and they are 20 ms apart at critical; spinning takes one.
SHARE_MOST = 0.3

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give CAP_KILL up, and be somebody else"),
    pytest.mark.skipif(not os.access(SYSTEM_PYTHON, os.X_OK), reason="no interpreter that others may run"),
]


def without_kill(argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
    """A launcher whose program may signal its own user's processes only."""
    return launch(["setpriv", "--bounding-set", "-kill", *argv], env=env, **kwargs)


@pytest.fixture
def yard() -> Iterator[tuple[MemoryCgroup, FakeServer]]:
    """A cgroup of 1 GiB with somebody else's fake Ollama in it."""
    try:
        with (
            MemoryCgroup(GIB, "refused") as cgroup,
            FakeServer(user=SOMEBODY, python=SYSTEM_PYTHON) as server,
        ):
            cgroup.add(server.pid)  # its runners are born there
            yield cgroup, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def tries(guard: Guard) -> int:
    """How often a kill was tried and refused; the log counts the repeats that it leaves out."""
    failed = guard.events("action.failed")
    assert all("the signal was refused: Operation not permitted" in event["message"] for event in failed)
    return sum(1 + event.get("repeated", 0) for event in failed)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_refused_signal_is_told_and_not_tried_for_ever(yard: tuple[MemoryCgroup, FakeServer]) -> None:
    """Only a busy runner of another user is left at critical; what is idle can still be unloaded."""
    cgroup, server = yard
    config = '[policy]\ntransition = "1s"\n'
    with Guard(server.url, cgroup=f"/{cgroup.name}", config=config, launcher=without_kill) as guard:
        (rights,) = guard.events("guard.tested", subject="kill")
        assert rights["may"] is False
        guard.wait_guarding(server.pid)
        server.load("mid")
        runner = server.runner_pids()["mid"]
        with StreamingClient(server.url, "mid", 4000) as client, Hog(cgroup.popen) as hog:
            assert client.wait_streaming()
            wait_look(guard, lambda told: [m["state"] for m in told["models"]] == ["busy"], "mid is busy")
            hog.grow(cgroup.available() - LEFT_BYTES, 400 * MIB)
            guard.wait_event("action.failed", 15)
            spent = cpu_seconds(guard.pid)
            wait_held(guard)
            share = (cpu_seconds(guard.pid) - spent) / REFUSED_SECONDS
            assert alive(runner), guard.tail()
            assert 1 <= tries(guard) <= TRIES_MOST, guard.tail()
            assert share <= SHARE_MOST, guard.tail()
            assert look(guard)["level"] == "critical"
            (held, *_) = [e for e in guard.events("decision.held") if "mid:latest" in e["message"]]
            assert held["level"] == "critical"
            assert cgroup.oom_kills() == 0
            assert client.answer.error is None
        wait_look(guard, lambda told: told["level"] == "ok", "the emergency is over", 15)
        server.load("tiny")
        wait_look(guard, lambda told: "idle" in [m["state"] for m in told["models"]], "tiny is idle", 15)
        assert guard.tell("unload", "tiny").returncode == 0
        guard.wait(lambda: "tiny" not in server.runner_pids(), 10, "tiny is unloaded")


def wait_held(guard: Guard) -> None:
    """Let it be critical for a while; it must answer all the while."""
    deadline = time.monotonic() + REFUSED_SECONDS
    while time.monotonic() < deadline:
        wait_look(guard, lambda told: told["level"] == "critical", "critical")
        time.sleep(0.2)
