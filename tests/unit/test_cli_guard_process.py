"""What the kernel says of the running guard's process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.cli.guard_process import ProcessFacts, process_facts

KILL, OVERRIDE = 1 << 5, 1 << 1


@pytest.fixture
def guard() -> Iterator[int]:
    """A process that calls itself the guard."""
    argv = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "ollama_guard.sentinel"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_whose_it_is_and_what_it_may_is_read_from_its_process(guard: int) -> None:
    facts = process_facts({"guard": {"pid": guard}}, {})
    assert facts.uid == os.geteuid()
    assert facts.capabilities is not None
    assert facts.may_kill is bool(facts.capabilities & KILL)


@pytest.mark.parametrize("status", [{}, {"guard": None}, {"guard": {"pid": None}}, {"guard": {"pid": 2**30}}])
def test_without_a_process_nothing_is_known(status: dict[str, object]) -> None:
    assert process_facts(status, {}) == ProcessFacts()
    assert ProcessFacts().may_kill is None


def test_a_number_that_means_somebody_else_here_is_not_believed() -> None:
    """A guard in a container of its own counts from 1."""
    assert process_facts({"guard": {"pid": 1}}, {}) == ProcessFacts()


def test_a_process_that_is_stuck_is_told_and_holds_nobody_up(tmp_path: Path) -> None:
    """Reading its command line waits for its memory, as here for a pipe's other end."""
    (tmp_path / "7").mkdir()
    os.mkfifo(tmp_path / "7/cmdline")
    unknown: dict[str, str] = {}
    assert process_facts({"guard": {"pid": 7}}, unknown, tmp_path) == ProcessFacts()
    assert unknown == {
        "the guard's process": "the command line of process 7: it could not be read within 2 s"
    }


def test_a_socket_is_for_its_owner_its_group_and_who_may_override(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        owner, group = path.stat().st_uid, path.stat().st_gid
        assert ProcessFacts(uid=owner).may_use(path) is True
        assert ProcessFacts(uid=owner + 1).may_use(path) is False
        assert ProcessFacts(uid=owner + 1, groups=frozenset({group})).may_use(path) is True
        assert ProcessFacts(uid=owner + 1, capabilities=OVERRIDE).may_use(path) is True
        assert ProcessFacts(uid=owner).may_use(tmp_path / "none") is None
        assert ProcessFacts().may_use(path) is None
