"""`healthcheck` as Docker and scripts run it: an exit code, one line, and never a long wait."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.handling import NOBODY_S

LIMIT_SECONDS = 4.0 + 1.0
"""What --help promises, and a second for a busy machine to start the program."""


@pytest.fixture
def guard(free_port: int, tmp_path: Path) -> Iterator[Guard]:
    """A running guard of nobody, with a status to tell."""
    with Guard(f"http://127.0.0.1:{free_port}", cgroup=NOBODY_S, home=tmp_path) as guard:
        guard.wait((guard.state / "public" / "status.json").exists, 15, "the status file")
        yield guard


def checked(guard: Guard, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line; never slower than promised, never a traceback."""
    began = time.monotonic()
    result = guard.cli("healthcheck", *arguments)
    assert time.monotonic() - began < LIMIT_SECONDS
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    return result.returncode, result.stdout


def test_a_running_guard_is_healthy(guard: Guard) -> None:
    code, line = checked(guard)
    assert (code, line.startswith("healthy: the guard is at work")) == (0, True)
    assert str(guard.runtime / "status.sock") in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")
def test_a_silent_ollama_counts_only_for_who_asks_for_both(tmp_path: Path) -> None:
    try:
        with MemoryCgroup(512 * 1024**2, "health") as cgroup, FakeServer(cgroup.join_paths) as server:
            quick = 'poll = "1s"\nunresponsive_after = "3s"\n'
            with Guard(server.url, cgroup=f"/{cgroup.name}", ollama=quick, home=tmp_path) as guard:
                guard.wait_guarding(server.pid)
                assert checked(guard, "--ollama")[0] == 0
                os.kill(server.pid, signal.SIGSTOP)
                guard.wait(lambda: checked(guard, "--ollama")[0] == 1, 20, "Ollama counts as silent")
                assert checked(guard, "--ollama")[1].startswith("unhealthy: OllamaUnresponsive")
                assert checked(guard)[0] == 0
                os.kill(server.pid, signal.SIGCONT)
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def test_a_program_gets_json(guard: Guard) -> None:
    told = json.loads(checked(guard, "--json")[1])
    assert told.keys() == {"healthy", "why", "level", "source", "age_seconds"}
    assert told["healthy"] is True


def test_where_only_the_file_can_be_read_it_is_asked_and_named(guard: Guard) -> None:
    """As in another container: the folder is mounted, the socket is not."""
    code, line = checked(guard, "--runtime-dir", "/nowhere")
    assert code == 0
    assert "news of" in line
    assert f"{guard.state}/public/status.json; the socket: No such file" in line


def test_a_guard_that_was_ended_becomes_unhealthy_when_its_news_is_a_minute_old(guard: Guard) -> None:
    guard.kill()
    assert checked(guard)[0] == 0, "it may be restarting"
    path = guard.state / "public" / "status.json"
    old = time.time() - 61
    os.utime(path, (old, old))
    code, line = checked(guard)
    assert code == 1
    assert re.search(r"6\d s old", line), line
    path.unlink()
    assert "there is no status file" in checked(guard)[1]


def test_hands_that_hang_do_not_make_it_hang(guard: Guard) -> None:
    pid = guard.hands_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        code, line = checked(guard)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 0, "the file is fresh still"
    assert "the socket: no" in line or "timed out" in line


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 200 OK\r\n\r\n<html>", b"HTTP/1.0 200 OK\r\n\r\n[]"])
def test_something_else_on_the_socket_is_unhealthy(tmp_path: Path, answer: bytes) -> None:
    (tmp_path / "run").mkdir()
    other = Guard("http://127.0.0.1:1", cgroup=NOBODY_S, home=tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "run" / "status.sock"))
        listener.listen()
        if not os.fork():
            link, _ = listener.accept()
            link.recv(1000)
            link.sendall(answer)
            os._exit(0)
        code, line = checked(other)
        os.wait()
    assert (code, "is not this guard" in line) == (1, True)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"level": "ok"'])
def test_a_broken_file_is_unhealthy(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "state" / "public"
    folder.mkdir(parents=True)
    (folder / "status.json").write_bytes(content)
    code, line = checked(Guard("http://127.0.0.1:1", cgroup=NOBODY_S, home=tmp_path))
    assert (code, line.startswith("unhealthy: the status file")) == (1, True)


def test_a_file_on_a_disk_that_hangs_is_unhealthy_in_time(tmp_path: Path) -> None:
    """A named pipe is as a disk that never answers: opening it waits for ever."""
    folder = tmp_path / "state" / "public"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "status.json")
    code, line = checked(Guard("http://127.0.0.1:1", cgroup=NOBODY_S, home=tmp_path))
    assert (code, "can't be read within" in line) == (1, True)
