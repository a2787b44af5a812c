"""The log never makes the sentinel wait, whoever does or does not read it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from ollama_guard.core.events import Event, Priority
from ollama_guard.sentinel.journal import choose_form, open_journal

EVENT = Event(
    "model.unloaded",
    "a:latest unloaded\nPRIORITY=0, 1.0 GiB came back",
    Priority.NOTICE,
    {"blob": "sha256:ab", "freed_bytes": 1024**3},
)


def lines_from(fd: int, count: int) -> list[str]:
    """Read until this many lines came."""
    text = b""
    while text.count(b"\n") < count:
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        text += chunk
    return text.decode().splitlines()


def test_journald_gets_native_fields_and_no_injected_ones(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        journal = open_journal({"OLLAMA_GUARD_LOG": "journal"}, path=path)
        journal.say(EVENT, 1.0, 1000.0)
        journal.close(1.0, 1000.0)
        fields = dict(line.split("=", 1) for line in journald.recv(65536).decode().splitlines())
    assert fields["OLLAMA_GUARD_EVENT"] == "model.unloaded"
    assert fields["OLLAMA_GUARD_FREED_BYTES"] == str(1024**3)
    assert fields["PRIORITY"] == "5"
    assert fields["SYSLOG_IDENTIFIER"] == "ollama-guard"


def test_a_journald_that_does_not_read_is_counted_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        journal = open_journal({"OLLAMA_GUARD_LOG": "journal"}, path=path)
        started = time.perf_counter()
        for number in range(2000):
            journal.say(Event("guard.warned", f"line {number}"), 1.0, 1000.0)
        assert time.perf_counter() - started < 1.0
        assert journal.dropped > 0
        journal.close(1.0, 1000.0)


def test_a_journald_that_comes_back_gets_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    journal = open_journal({"OLLAMA_GUARD_LOG": "journal"}, path=str(path))
    journal.say(Event("guard.warned", "nobody hears"), 1.0, 1000.0)
    assert journal.dropped == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(path))
        journal.say(Event("guard.warned", "somebody hears"), 1.0, 1000.0)
        assert b"MESSAGE=somebody hears\n" in journald.recv(65536)
    journal.close(1.0, 1000.0)


@pytest.mark.parametrize("form", ["line", "json"])
def test_the_printer_writes_one_line_per_event(form: str) -> None:
    read_end, write_end = os.pipe()
    journal = open_journal({"OLLAMA_GUARD_LOG": form}, fd=write_end)
    os.close(write_end)
    journal.say(EVENT, 1.0, 1000.0)
    journal.say(Event("guard.warned", "second"), 1.0, 1000.0)
    journal.close(1.0, 1000.0)
    first, second = lines_from(read_end, 2)
    os.close(read_end)
    assert "model.unloaded" in first
    assert "second" in second
    if form == "json":
        assert json.loads(first)["freed_bytes"] == 1024**3


def test_a_pipe_that_nobody_reads_never_makes_the_writer_wait() -> None:
    read_end, write_end = os.pipe()
    journal = open_journal({"OLLAMA_GUARD_LOG": "line"}, fd=write_end)
    slowest = 0.0
    for number in range(5000):
        started = time.perf_counter()
        journal.say(Event("guard.warned", f"line {number} {'x' * 500}"), 1.0, 1000.0)
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 0.2
    assert journal.dropped > 0
    started = time.perf_counter()
    journal.close(1.0, 1000.0)
    assert time.perf_counter() - started < 0.6
    os.close(write_end)
    os.close(read_end)


def test_what_was_held_back_is_told_at_the_end() -> None:
    read_end, write_end = os.pipe()
    journal = open_journal({"OLLAMA_GUARD_LOG": "json"}, fd=write_end)
    os.close(write_end)
    for _ in range(3):
        journal.say(Event("load.aborted", "again", fields={"blob": "sha256:a"}), 1.0, 1000.0)
    journal.close(1.0, 1000.0)
    told = [json.loads(line) for line in lines_from(read_end, 2)]
    os.close(read_end)
    assert [entry.get("repeated") for entry in told] == [None, 1]


def test_a_printer_that_was_killed_is_replaced() -> None:
    read_end, write_end = os.pipe()
    journal = open_journal({"OLLAMA_GUARD_LOG": "line"}, fd=write_end)
    child = journal._writer._child  # type: ignore[attr-defined]
    os.kill(child.pid, signal.SIGKILL)
    child.exited(1.0)
    journal.say(Event("guard.warned", "still heard"), 1.0, 1000.0)
    journal.close(1.0, 1000.0)
    os.close(write_end)
    assert "still heard" in lines_from(read_end, 1)[0]
    os.close(read_end)


def test_the_form_follows_stderr_and_the_owners_word(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert choose_form(stream, file.fileno()) == "journal"
        assert choose_form({"JOURNAL_STREAM": "1:2"}, file.fileno()) == "json"
        assert choose_form({**stream, "OLLAMA_GUARD_LOG": "line"}, file.fileno()) == "line"
        assert choose_form({"OLLAMA_GUARD_LOG": "nonsense"}, file.fileno()) == "json"
    terminal, other = os.openpty()
    assert choose_form({}, other) == "line"
    os.close(terminal)
    os.close(other)
