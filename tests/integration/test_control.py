"""The sockets and the public file of a real `hands` process, used as people and scripts use them."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beds.hands import HandsBed, UnixConnection
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.wire import Beat, Replied, RequestPosted, StatusPosted

STATUS = {"version": "0.1.0", "level": "ok", "conditions": [], "guard": {"pid": 1, "pss_bytes": None}}


@pytest.fixture
def policy() -> Iterator[Policy]:
    """A policy whose Ollama is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield Policy(ollama=OllamaPolicy(url=f"http://127.0.0.1:{taken.getsockname()[1]}"))


@pytest.fixture
def hands(policy: Policy, tmp_path: Path) -> Iterator[HandsBed]:
    """Hands that beat."""
    with HandsBed(tmp_path, policy) as started:
        started.wait_for(Beat)
        yield started


def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def replying(hands: HandsBed, ok: bool) -> threading.Thread:  # noqa: FBT001  (as in `Replied`)
    """A sentinel that answers the next wish."""

    def reply() -> None:
        request = hands.wait_for(RequestPosted).request
        hands.channel.send(
            Replied(request.id, ok, f"{request.verb} {request.model}", {"seconds": request.seconds})
        )

    thread = threading.Thread(target=reply)
    thread.start()
    return thread


def test_both_sockets_are_for_their_groups_only(hands: HandsBed) -> None:
    """Where the group does not exist, for their owner alone: never for whatever group we happen to be in."""
    groups = {entry.gr_name: entry.gr_gid for entry in grp.getgrall()}
    for name, group in (("status.sock", "ollama-guard"), ("control.sock", "ollama-guard-admin")):
        info = (hands.runtime_dir / name).stat()
        assert stat.S_ISSOCK(info.st_mode)
        assert stat.S_IMODE(info.st_mode) == (0o660 if group in groups else 0o600)
        assert info.st_gid == groups.get(group, info.st_gid)


BINDS = """
import encodings.idna, grp, os, sys  # what is imported later has to be readable then
from pathlib import Path
from ollama_guard.control.sockets import Face
os.setgroups([]), os.setgid(65534), os.setuid(65534)
face = Face(Path(sys.argv[1]), "daemon", lambda environ, start: [], 1)
print(face.narrowed, oct(face.path.stat().st_mode), face.path.stat().st_gid == grp.getgrnam("daemon").gr_gid)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_a_socket_gets_its_group_without_any_right_where_a_folder_of_that_group_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under the installed unit, which refuses chown(2); the first try shows that nothing else gives it."""
    home = tmp_path / "run"
    home.mkdir()
    home.chmod(0o777)
    # From within, since nobody may walk there from the root.
    monkeypatch.chdir(home)

    def bound() -> str:
        argv = [sys.executable, "-c", BINDS, "control.sock"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    assert bound() == "this user may not give it to the group daemon 0o140600 False"
    birthplace = home / ".daemon"
    birthplace.mkdir()
    os.chown(birthplace, 65534, grp.getgrnam("daemon").gr_gid)
    birthplace.chmod(0o2700)
    assert bound() == "0o140660 True"
    assert list(birthplace.iterdir()) == []


def test_status_and_health_say_starting_until_the_first_status(hands: HandsBed) -> None:
    assert hands.ask("status.sock", "GET", "/status") == (503, {"error": "starting"})
    hands.channel.send(StatusPosted(STATUS))
    until(lambda: hands.ask("status.sock", "GET", "/health")[0] == 200)
    code, document = hands.ask("status.sock", "GET", "/status")
    assert (code, document["level"]) == (200, "ok")
    until(lambda: hands.ask("status.sock", "GET", "/status")[1]["guard"]["pss_bytes"] is not None)


@pytest.mark.parametrize("ok", [True, False])
def test_a_wish_goes_to_the_sentinel_and_its_answer_comes_back(hands: HandsBed, *, ok: bool) -> None:
    thread = replying(hands, ok)
    code, answer = hands.ask("control.sock", "POST", "/pause", '{"seconds": 90}')
    thread.join()
    assert code == (200 if ok else 409)
    assert answer == {"ok": ok, "text": "pause ", "detail": {"seconds": 90.0}}
    until(lambda: any(event["event"] == "request.answered" for event in hands.events()))


def test_two_wishes_at_a_time_get_each_their_own_answer(hands: HandsBed) -> None:
    answers: dict[str, Any] = {}

    def ask(model: str) -> None:
        answers[model] = hands.ask("control.sock", "POST", "/unload", json.dumps({"model": model}))

    threads = [threading.Thread(target=ask, args=(model,)) for model in ("first", "second")]
    for thread in threads:
        thread.start()
    until(lambda: len(hands.told(RequestPosted)) == 2)
    for message in reversed(hands.told(RequestPosted)):
        hands.channel.send(Replied(message.request.id, ok=True, text=message.request.model))
    for thread in threads:
        thread.join()
    assert {model: answer[1]["text"] for model, answer in answers.items()} == {
        "first": "first",
        "second": "second",
    }


def test_wishes_that_wait_in_line_are_no_news_for_the_log(hands: HandsBed) -> None:
    """Four threads serve the socket, so the rest of these stand in the library's queue."""

    def wish(name: str) -> None:
        hands.ask("control.sock", "POST", "/unload", json.dumps({"model": name}))

    threads = [threading.Thread(target=wish, args=(f"m{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    answered = 0
    while answered < len(threads):
        until(lambda: len(hands.told(RequestPosted)) > answered)  # noqa: B023 - it is called at once
        request = hands.told(RequestPosted)[answered].request
        hands.channel.send(Replied(request.id, ok=True, text=request.model))
        answered += 1
    for thread in threads:
        thread.join()
    assert [event for event in hands.events() if event.get("source", "").startswith("waitress")] == []


def test_a_sentinel_that_does_not_answer_is_a_503_in_bounded_time(hands: HandsBed) -> None:
    started = time.monotonic()
    code, answer = hands.ask("control.sock", "POST", "/resume")
    assert code == 503
    assert "did not answer" in answer["text"]
    assert time.monotonic() - started < 13


def test_bad_requests_are_answered_as_json(hands: HandsBed) -> None:
    assert hands.ask("control.sock", "POST", "/unload", '{"modle":1}')[0] == 400
    assert hands.ask("control.sock", "POST", "/unload", "x" * 20_000)[0] == 400
    assert hands.ask("control.sock", "GET", "/unload")[0] == 405
    assert hands.ask("control.sock", "POST", "/status")[0] == 404
    assert hands.ask("status.sock", "POST", "/unload")[0] == 404


def test_a_huge_body_or_garbage_does_not_hurt(hands: HandsBed) -> None:
    huge = b"POST /unload HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n"
    for garbage in (b"\x00" * 1000, huge, b"GET " + b"x" * 9_999):
        connection = UnixConnection(hands.runtime_dir / "control.sock")
        connection.connect()
        assert connection.sock is not None
        connection.sock.sendall(garbage)
        connection.close()
    assert hands.ask("control.sock", "GET", "/unload")[0] == 405


def test_idle_readers_of_the_status_do_not_lock_out_who_acts(hands: HandsBed) -> None:
    readers = [UnixConnection(hands.runtime_dir / "status.sock") for _ in range(80)]
    for reader in readers:
        reader.connect()
    assert hands.ask("control.sock", "GET", "/unload")[0] == 405
    for reader in readers:
        reader.close()


def test_stale_sockets_of_a_killed_guard_are_replaced(policy: Policy, tmp_path: Path) -> None:
    with HandsBed(tmp_path, policy) as first:
        first.wait_for(Beat)
        first.process.kill()
        first.process.wait()
    assert (tmp_path / "run" / "control.sock").exists()
    with HandsBed(tmp_path, policy) as second:
        second.wait_for(Beat)
        assert second.ask("control.sock", "GET", "/unload")[0] == 405
        assert {entry.name for entry in second.runtime_dir.iterdir()} == {"status.sock", "control.sock"}


def test_an_old_process_does_not_take_its_successor_s_sockets_away(policy: Policy, tmp_path: Path) -> None:
    with HandsBed(tmp_path, policy) as first:
        first.wait_for(Beat)
        with HandsBed(tmp_path, policy) as second:
            second.wait_for(Beat)
            first.channel.close()
            assert first.process.wait(5) == 0
            assert second.ask("status.sock", "GET", "/status")[0] == 503


def test_without_a_place_for_sockets_they_work_on_and_say_so(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with HandsBed(tmp_path, policy) as hands:
        hands.wait_for(Beat)
        warnings = [event for event in hands.events() if event["event"] == "guard.warned"]
        assert [Path(str(event["path"])).name for event in warnings] == ["status.sock", "control.sock"]


def test_a_path_longer_than_a_socket_address_works(policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with HandsBed(folder, policy) as hands:
        hands.wait_for(Beat)
        assert hands.ask("status.sock", "GET", "/status")[0] == 503


def test_the_public_file_is_readable_by_all_and_follows_the_status(hands: HandsBed) -> None:
    path = hands.state_dir / "public" / "status.json"
    hands.channel.send(StatusPosted(STATUS))
    until(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    hands.channel.send(StatusPosted({**STATUS, "level": "hard"}))
    until(lambda: json.loads(path.read_text())["level"] == "hard", seconds=3)


def test_a_disk_that_hangs_costs_one_warning_and_nothing_else(policy: Policy, tmp_path: Path) -> None:
    """A FIFO that nobody reads stands in for the disk: opening it never comes back."""
    public = tmp_path / "state" / "public"
    public.mkdir(parents=True)
    os.mkfifo(public / ".status.json.new")
    with HandsBed(tmp_path, policy) as hands:
        hands.channel.send(StatusPosted(STATUS))
        until(lambda: any(event["event"] == "guard.warned" for event in hands.events()), seconds=10)
        hands.forget()
        hands.wait_for(Beat)
        assert hands.ask("status.sock", "GET", "/status")[0] == 200
        assert [event["event"] for event in hands.events()].count("guard.warned") == 1
