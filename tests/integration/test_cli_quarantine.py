"""`quarantine list`, `add`, `restore` against the real guard in front of a fake Ollama."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.guarded import guarded_fake

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")

MIB = 1024 * 1024
MODELS = ("big=60MiB,rate=800,alias=nick", "small=20MiB,rate=800")
KEPT = "quarantine.registry.ollama.ai/library/big:latest"


@pytest.fixture(params=["enforce", "observe"])
def guard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Guard, FakeServer]]:
    """A guard that has heard of the catalogue and has found the models folder by itself."""
    mode = f'[policy]\nmode = "{request.param}"\n'
    with guarded_fake(1024 * MIB, "hidden", MODELS, tmp_path, config=mode) as (guard, server):
        guard.wait(lambda: told(guard, "list").returncode == 0, 15, "the store is told")
        yield guard, server


def told(guard: Guard, *arguments: str) -> subprocess.CompletedProcess[str]:
    return guard.tell("quarantine", *arguments)


def installed(server: FakeServer) -> set[str]:
    return {model["name"] for model in server.get("/api/tags")["models"]}


def test_a_loaded_model_is_hidden_listed_and_given_back_by_hand_in_every_mode(
    guard: tuple[Guard, FakeServer],
) -> None:
    daemon, server = guard
    before = installed(server)
    server.load("nick")
    empty = told(daemon, "list")
    assert (empty.returncode, empty.stdout) == (0, "no model is hidden\n")

    added = told(daemon, "add", "big")
    assert (added.returncode, added.stderr) == (0, "")
    assert added.stdout == "big:latest = nick:latest hidden: by renaming\n"
    assert installed(server) == {"small:latest", KEPT, KEPT.replace("big", "nick")}
    daemon.wait(lambda: not server.runner_pids(), 10, "its runner is gone")
    listed = told(daemon, "list")
    assert "asked for by hand: hide big:latest = nick:latest" in listed.stdout
    assert listed.stdout.splitlines()[0].split() == ["MODEL", "SINCE", "HOW", "NEEDS", "WHY"]
    rows = json.loads(told(daemon, "list", "--json").stdout)["quarantine"]
    assert {(row["name"], row["how"]) for row in rows} == {
        ("big:latest", "offline"),
        ("nick:latest", "offline"),
    }
    event = daemon.wait_event("model.quarantined", 5)
    assert event["names"] == "big:latest, nick:latest"
    again = told(daemon, "add", "nick")
    assert (again.returncode, again.stdout[:26]) == (0, "nick:latest is hidden alre")

    back = json.loads(told(daemon, "restore", "nick", "--json").stdout)
    assert back["ok"]
    assert back["text"] == "big:latest = nick:latest back: by renaming"
    assert installed(server) == before
    daemon.wait_event("model.restored", 5)
    assert told(daemon, "list").stdout == "no model is hidden\n"
    server.load("big")


def test_what_is_not_there_is_refused_with_the_nearest_names(guard: tuple[Guard, FakeServer]) -> None:
    daemon, _ = guard
    wrong = told(daemon, "add", "bigg")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "no model named 'bigg' is installed; did you mean big:latest?\n"
    gone = told(daemon, "restore", "bigg")
    assert (gone.returncode, gone.stderr) == (1, "no model named 'bigg' is hidden; no model is hidden\n")
    there = told(daemon, "restore", "small")
    assert (there.returncode, there.stdout) == (0, "small is not hidden: clients can ask for it\n")
