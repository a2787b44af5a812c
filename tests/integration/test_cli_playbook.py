"""`playbook` against the real guard: what it would do, what it refuses, one that stops no server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.guarded import guarded_fake

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")

MIB = 1024 * 1024
MODELS = ("fat=300MiB,rate=800", "mid=200MiB,rate=800", "giant=900000MiB,rate=800")


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[tuple[Guard, FakeServer]]:
    """A guard over an Ollama of its own in a cgroup of 1 GiB."""
    with guarded_fake(1024 * MIB, "playbook", MODELS, tmp_path) as both:
        yield both


def test_it_shows_what_each_step_would_do_here_and_why_it_may_not(guard: tuple[Guard, FakeServer]) -> None:
    daemon, _ = guard
    listed = daemon.tell("playbook", "list")
    assert listed.returncode == 0, listed
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["freeze", "models_dont_load"]
    shown = daemon.tell("playbook", "run", "freeze", "--dry-run").stdout
    steps = [line.split()[1] for line in shown.splitlines() if line[2:3].isdigit()]
    assert steps == ["constrain", "stop", "kill_server", "quarantine", "start", "verify", "reopen"]
    assert "hide giant" in shown
    assert "no lines, since it does not read the environment file" in shown, "a bare process"
    document = json.loads(daemon.tell("playbook", "show", "--json").stdout)
    assert document["running"] is None
    assert document["playbooks"][0]["by_itself"] is False


def test_an_unknown_playbook_and_one_that_can_not_run_here_are_refused(
    guard: tuple[Guard, FakeServer],
) -> None:
    daemon, server = guard
    unknown = daemon.tell("playbook", "run", "defrost")
    assert (unknown.returncode, "freeze, models_dont_load" in unknown.stderr) == (1, True), unknown
    assert daemon.tell("playbook", "show", "defrost").returncode == 1
    assert daemon.tell("playbook", "run").returncode == 2
    refused = daemon.tell("playbook", "run", "freeze")
    assert refused.returncode == 1, refused
    os.kill(server.pid, 0)  # it lives


def test_models_dont_load_by_hand_keeps_one_model(guard: tuple[Guard, FakeServer]) -> None:
    daemon, server = guard
    server.load("fat")
    server.load("mid")
    daemon.wait(lambda: set(daemon.model_states().values()) == {"idle"}, 20, "both are idle")
    assert len(daemon.model_states()) == 2
    begun = daemon.tell("playbook", "run", "models_dont_load")
    assert begun.returncode == 0, begun
    daemon.wait(lambda: len(daemon.model_states()) == 1, 15, "one is left")
    assert "running: models_dont_load" in daemon.tell("playbook", "list").stdout
