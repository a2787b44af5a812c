"""The wall clock jumps by a year, the machine sleeps for a night: nobody pays for it."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.hands import UnixConnection
from beds.yard import GIB
from ollama_guard.core.codec import to_plain
from ollama_guard.core.policy import Policy

FAKETIME = str(Path(__file__).with_name("faketime.py"))
YEAR_SECONDS = 365 * 86_400.0
NIGHT_SECONDS = 8 * 3600.0
ACTED = {"decision.made", "model.unloaded", "load.aborted", "runner.killed", "action.failed"}


class Sleeper:
    """A guard in a time of its own, beside a fake Ollama with one idle model."""

    def __init__(self, folder: Path, server: FakeServer, cgroup: str) -> None:
        self.folder = folder
        self.offsets = folder / "offsets"
        self.jump()
        policy = Policy()
        policy = replace(
            policy,
            ollama=replace(
                policy.ollama, url=server.url, cgroup=cgroup, poll_seconds=1.0, unresponsive_after_seconds=3.0
            ),
        )
        (folder / "policy.json").write_text(json.dumps(to_plain(policy)))
        argv = [sys.executable, FAKETIME, str(self.offsets), "guard", str(folder), str(folder / "state")]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, str(folder / "policy.json")],
                stderr=log, env={**os.environ, "OLLAMA_GUARD_LOG": "json"},
            )  # fmt: skip

    def jump(self, wall: float = 0.0, boottime: float = 0.0) -> None:
        """Move both clocks to so many seconds from the true time."""
        with self.offsets.open("r+b" if self.offsets.exists() else "wb") as file:
            file.write(struct.pack("=dd", wall, boottime))

    def events(self) -> list[dict[str, Any]]:
        """The log; every line must be an event."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def names(self) -> list[str]:
        """The names of all events."""
        return [event["event"] for event in self.events()]

    def look(self) -> dict[str, Any]:
        """The status."""
        connection = UnixConnection(self.folder / "status.sock")
        try:
            connection.request("GET", "/status")
            document: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return document

    def until(self, holds: Any, what: str, seconds: float = 10.0) -> None:
        """Wait, or fail with the log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except (OSError, KeyError, IndexError):
                pass
            time.sleep(0.02)
        raise AssertionError(f"not in time: {what}\n{self.events()[-10:]}")

    def unharmed(self, server: FakeServer, runner: int) -> None:
        """Nothing was done, all is seen as before, and the tick goes on."""
        before = self.look()["guard"]["cpu_seconds"]
        # A guard at rest ticks every 3 s.
        self.until(lambda: self.look()["guard"]["cpu_seconds"] > before, "the tick goes on")
        time.sleep(2.5)
        told = self.look()
        assert told["ollama"]["alive"] is True
        assert told["conditions"] == []
        assert [(model["pid"], model["state"]) for model in told["models"]] == [(runner, "idle")]
        assert server.runner_pids() == {"tiny": runner}
        assert not ACTED & set(self.names()), self.events()
        assert "hands.restarted" not in self.names()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[Sleeper, FakeServer, int]]:
    """A guard, its server, and the PID of the idle runner."""
    try:
        with MemoryCgroup(1 * GIB, "clock") as cgroup, FakeServer(cgroup.join_paths) as server:
            server.load("tiny")
            sleeping = Sleeper(tmp_path, server, f"/{cgroup.name}")
            try:
                sleeping.until(lambda: sleeping.look()["models"][0]["state"] == "idle", "tiny is idle")
                sleeping.until(lambda: sleeping.look()["ollama"]["alive"], "the API is heard")
                yield sleeping, server, server.runner_pids()["tiny"]
            finally:
                sleeping.process.send_signal(signal.SIGTERM)
                assert sleeping.process.wait(10) == 0
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def test_a_year_forth_and_two_back_change_nothing(sleeper: tuple[Sleeper, FakeServer, int]) -> None:
    """The wall clock is for people only: no model has expired, nobody is stale, nothing is said."""
    sleeping, server, runner = sleeper
    said = len(sleeping.names())
    sleeping.jump(wall=YEAR_SECONDS)
    sleeping.unharmed(server, runner)
    sleeping.jump(wall=-YEAR_SECONDS)
    sleeping.unharmed(server, runner)
    assert sleeping.names()[said:] == []
    now = time.gmtime().tm_year
    sleeping.process.send_signal(signal.SIGUSR1)  # the clock did jump, as the log shows
    sleeping.until(lambda: "guard.reported" in sleeping.names(), "a report")
    assert int(sleeping.events()[-1]["time"][:4]) in (now - 1, now - 2)


def test_a_night_of_sleep_is_told_and_nothing_comes_of_it(sleeper: tuple[Sleeper, FakeServer, int]) -> None:
    """Suspend: all durations start anew; an Ollama that slept as well is not silent, hands are not dead."""
    sleeping, server, runner = sleeper
    sleeping.jump(wall=NIGHT_SECONDS, boottime=NIGHT_SECONDS)
    sleeping.until(lambda: "guard.stalled" in sleeping.names(), "it is told")
    sleeping.unharmed(server, runner)
    assert sleeping.names().count("guard.stalled") == 1
    stalled = next(e for e in sleeping.events() if e["event"] == "guard.stalled")
    assert stalled["queued_seconds"] < 10 < stalled["gap_seconds"]
    assert stalled["cpu_seconds"] < 10
    assert "condition.changed" not in sleeping.names()
    assert "ollama.lost" not in sleeping.names()
