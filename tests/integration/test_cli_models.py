"""`models`, `fit` and `unload` against the real guard, which guards a fake Ollama that takes real memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.guarded import guarded_fake
from beds.http import HttpFailure, request

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")

MIB = 1024 * 1024
MODELS = ("fat=450MiB,rate=800,alias=fat-alias", "mid=420MiB,rate=800", "giant=3000MiB,rate=800")


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[tuple[Guard, FakeServer]]:
    """A guard over a cgroup of 1 GiB, 86 MiB of which are below hard, and an Ollama that it has heard of."""
    with guarded_fake(1024 * MIB, "models", MODELS, tmp_path) as both:
        yield both


def test_fit_foretells_what_the_guard_then_does(guard: tuple[Guard, FakeServer]) -> None:
    """Yes, then it loads; no unless one goes, then that one goes; no at all, then it is aborted."""
    daemon, server = guard
    fits = daemon.tell("fit", "fat")
    assert (fits.returncode, fits.stdout[:4]) == (0, "yes:"), fits
    server.load("fat")
    daemon.wait(lambda: daemon.model_states().get("fat") == "idle", 15, "fat is idle")
    assert "it is loaded (idle" in daemon.tell("fit", "fat-alias").stdout

    beside = daemon.tell("fit", "mid")
    expected = "fat-alias:latest (idle" if "= fat-alias" not in beside.stdout else "fat:latest"
    assert (beside.returncode, beside.stdout[:3]) == (1, "no:")
    assert expected in beside.stdout
    assert "would be unloaded to make room" in beside.stdout
    server.load("mid")
    daemon.wait_event("model.unloaded", 15)
    assert "mid" in server.runner_pids()

    never = daemon.tell("fit", "giant", "--json")
    answer = json.loads(never.stdout)
    assert (never.returncode, answer["fits"], answer["state"]) == (1, False, "unloaded")
    assert answer["short_bytes"] > 1000 * MIB
    with pytest.raises(HttpFailure, match="HTTP 500"):
        server.load("giant")
    daemon.wait_event("load.aborted", 10)


def test_models_tells_each_blob_once_and_what_was_measured(guard: tuple[Guard, FakeServer]) -> None:
    daemon, server = guard
    before = {row["name"]: row for row in json.loads(daemon.tell("models", "--json").stdout)["models"]}
    assert len(before) == len(MODELS)
    (name,) = [name for name in before if name.startswith("fat")]
    assert (before[name]["state"], before[name]["footprint_measured"]) == ("unloaded", False)
    request(server.url, "POST", "/api/generate", {"model": "fat", "prompt": "hi", "stream": False})
    daemon.wait(lambda: row_of(daemon, "fat")["footprint_measured"], 20, "the footprint is measured")
    daemon.wait(lambda: row_of(daemon, "fat")["state"] == "idle", 20, "fat is idle")
    row = row_of(daemon, "fat")
    assert row["footprint_bytes"] == pytest.approx(450 * MIB, rel=0.2)
    lines = daemon.tell("models").stdout.splitlines()
    assert lines[0].split() == ["MODEL", "FILE", "FOOTPRINT", "FITS", "NOW", "PREFERENCE", "STATE"]
    (line,) = [line for line in lines if line.startswith("fat")]
    assert "~" not in line
    assert line.endswith("idle")
    (other,) = [line for line in lines if line.startswith("giant")]
    assert "~" in other
    assert "  no  " in other


def row_of(guard: Guard, name: str) -> dict[str, object]:
    """The row of a model, straight from the command."""
    rows = json.loads(guard.tell("models", "--json").stdout)["models"]
    return next(row for row in rows if f"{name}:latest" in (row["name"], *row["aliases"]))


@pytest.mark.parametrize("command", ["fit", "unload"])
def test_a_name_that_is_not_installed_gets_the_nearest_ones(
    guard: tuple[Guard, FakeServer], command: str
) -> None:
    result = guard[0].tell(command, "gaint")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "no model named 'gaint' is installed; did you mean giant:latest?\n"


def test_without_a_daemon_one_look_answers_by_the_ledger_that_the_daemon_left(
    guard: tuple[Guard, FakeServer],
) -> None:
    daemon, server = guard
    server.load("fat")
    daemon.wait(lambda: row_of(daemon, "fat")["footprint_measured"], 20, "the footprint is measured")
    daemon.stop()
    left = sorted(daemon.state.iterdir())
    result = daemon.tell("models", "--json")
    assert (result.returncode, "this is one look without it" in result.stderr) == (0, True)
    row = next(r for r in json.loads(result.stdout)["models"] if r["name"].startswith("fat"))
    assert row["footprint_measured"]
    assert row["state"] in ("busy", "loading"), "not proven idle"
    assert sorted(daemon.state.iterdir()) == left, "a look makes no files"
    assert daemon.tell("fit", "giant").returncode == 1
