"""The log of hands renders as the sentinel's does, and is never waited for."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from ollama_guard.core import events
from ollama_guard.core.events import Event, Priority
from ollama_guard.hands import journal

FIELDS: dict[str, Any] = {
    "url": "http://x",
    "silent_seconds": 2.5,
    "name": 'a "b"\n\x1b[31m',
    "ok": True,
    "no": None,
}
EVENT = Event("ollama.lost", "gone\nforged line", Priority.WARNING, FIELDS)


def written(form: str, descriptor_path: Path) -> str:
    with descriptor_path.open("wb") as sink:
        journal.configure({"OLLAMA_GUARD_LOG": form}, sink.fileno())
        journal.log().warning("ollama.lost", message="gone\nforged line", **FIELDS)
    return descriptor_path.read_text()


def test_a_line_is_the_core_s_line(tmp_path: Path) -> None:
    line = written("line", tmp_path / "log")
    assert line[8:] == events.as_line(EVENT, 0.0)[8:] + "\n"
    assert line.count("\n") == 1


def test_a_json_line_is_the_core_s_json_line(tmp_path: Path) -> None:
    line = written("json", tmp_path / "log")
    expected = json.loads(events.as_json(EVENT, 0.0))
    assert {**json.loads(line), "time": None} == {**expected, "time": None}
    assert line.count("\n") == 1


def test_a_journal_datagram_carries_the_core_s_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        logger = journal.configure({"OLLAMA_GUARD_LOG": "journal"}, journald=str(tmp_path / "socket"))
        journal.log().warning("ollama.lost", message="gone\nforged line", **FIELDS)
        logger.close()
        datagram = journald.recv(65536).decode()
    pairs = dict(line.split("=", 1) for line in datagram.splitlines())
    assert pairs == events.as_journal(EVENT)


def test_the_form_follows_where_standard_error_goes(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as sink:
        info = os.fstat(sink.fileno())
        assert journal.chosen_form({}, sink.fileno()) == "json"
        assert journal.chosen_form({"OLLAMA_GUARD_LOG": "line"}, sink.fileno()) == "line"
        assert journal.chosen_form({"OLLAMA_GUARD_LOG": "loud"}, sink.fileno()) == "json"
        stream = {"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"}
        there = Path(journal.JOURNAL_SOCKET).exists()
        assert journal.chosen_form(stream, sink.fileno()) == ("journal" if there else "json")
    primary, secondary = os.openpty()
    assert journal.chosen_form({}, secondary) == "line"
    os.close(primary)
    os.close(secondary)


def test_a_full_pipe_is_not_waited_for_and_the_drops_are_counted() -> None:
    reading, writing = os.pipe()
    logger = journal.configure({"OLLAMA_GUARD_LOG": "json"}, writing)
    for _ in range(1000):
        journal.log().info("guard.reported", message="x" * 1000)
    assert 900 < logger.dropped < 1000
    os.close(reading)
    os.close(writing)


def test_a_journal_that_is_gone_is_not_an_error(tmp_path: Path) -> None:
    logger = journal.configure({"OLLAMA_GUARD_LOG": "journal"}, journald=str(tmp_path / "nobody"))
    journal.log().info("guard.reported", message="hello")
    logger.close()
    assert logger.dropped == 1


def test_what_a_library_says_becomes_an_event(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as sink:
        journal.configure({"OLLAMA_GUARD_LOG": "json"}, sink.fileno())
        logging.getLogger("waitress").warning("queue depth\nis 5")
    event = json.loads((tmp_path / "log").read_text())
    assert (event["event"], event["source"]) == ("guard.warned", "waitress")
    assert event["message"] == "waitress: queue depth\\x0ais 5"
