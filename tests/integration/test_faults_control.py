"""The sockets of a running guard under ugly clients, and who may use them."""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beds.guard import PROGRAM, Guard
from beds.handling import NOBODY_S, look, wait_look, warned
from beds.hands import UnixConnection
from beds.nobody import become_nobody

NOWHERE = "http://127.0.0.1:9"
ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """One guard for all of these: whatever one client did must not matter to the next."""
    with Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path_factory.mktemp("control")) as started:
        wait_look(started, lambda told: told["mode"] == "enforce", "a first status")
        yield started
        assert not started.events("hands.restarted")
        assert look(started)["mode"] == "enforce"


def ask(
    guard: Guard, face: str, method: str, path: str, body: bytes | str | None = None
) -> tuple[int, dict[str, Any]]:
    """One request; its status and its JSON, which every answer is."""
    connection = UnixConnection(guard.runtime / face)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def plug(guard: Guard, face: str) -> socket.socket:
    """A bare connection."""
    plugged = socket.socket(socket.AF_UNIX)
    plugged.settimeout(5)
    plugged.connect(str(guard.runtime / face))
    return plugged


BODIES = (
    b"{", b"\xff\xfe", b"[]", b"null", b"7", b'"x"', b"[" * 9000, b"{" * 9000, b'{"seconds": NaN}',
    b'{"seconds": "1h"}', b'{"seconds": -1}', b'{"seconds": 1e999}', b'{"seconds": true}', b'{"seconds": []}',
    b'{"seconds": 5, "model": "x"}', b'{"\\n\\u0000": 1}', b'{"seconds": 1' + b"0" * 5000 + b"}",
    b"x" * 20_000, b'{"seconds": 60, "pad": "' + b"x" * 16_000 + b'"}',
)  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_wish_is_refused_in_one_sentence(guard: Guard, body: bytes) -> None:
    status, answer = ask(guard, "control.sock", "POST", "/pause", body)
    assert status == 400, answer
    assert answer["ok"] is False
    assert len(answer["text"]) < 300
    assert all(character.isprintable() for character in answer["text"]), ascii(answer["text"])


@pytest.mark.parametrize(
    ("face", "method", "path", "expected"),
    [
        ("control.sock", "POST", "/", 404), ("control.sock", "POST", "/../../etc/passwd", 404),
        ("control.sock", "POST", "/status", 404), ("control.sock", "POST", "/pause/", 404),
        ("control.sock", "GET", "/pause", 405), ("control.sock", "DELETE", "/unload", 405),
        ("status.sock", "POST", "/pause", 404), ("status.sock", "POST", "/status", 405),
        ("status.sock", "GET", "/" + "x" * 8000, 404), ("status.sock", "GET", "/%00%0a", 404),
    ],
)  # fmt: skip
def test_unknown_paths_and_methods_are_refused(
    guard: Guard, face: str, method: str, path: str, expected: int
) -> None:
    """Above all: nothing that acts is reachable through the socket to read."""
    assert ask(guard, face, method, path)[0] == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST /pause HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /pause HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"A" * 200_000 + b"\r\n\r\n",
        b"POST /pause HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /pause HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"GET /status HTTP/9.9\r\n\r\n",
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_http_disturbs_nobody(guard: Guard, raw: bytes) -> None:
    for face in ("control.sock", "status.sock"):
        with plug(guard, face) as client, contextlib.suppress(OSError):
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            client.recv(4096)
    assert look(guard)["mode"] == "enforce"
    assert ask(guard, "control.sock", "POST", "/resume")[0] == 200


def test_clients_that_say_nothing_or_half_leave_the_way_free(guard: Guard) -> None:
    """Forty of each kind sit on both sockets; a status and a wish are still answered at once."""
    with contextlib.ExitStack() as stack:
        for face in ("control.sock", "status.sock"):
            for _ in range(20):
                stack.enter_context(plug(guard, face))
                half = stack.enter_context(plug(guard, face))
                half.sendall(b"POST /pause HTTP/1.1\r\nContent-Length: 50\r\n\r\n{")
        began = time.monotonic()
        assert look(guard)["mode"] == "enforce"
        assert ask(guard, "control.sock", "POST", "/resume")[0] == 200
        assert time.monotonic() - began < 2.0


def test_clients_that_never_read_their_answer_leave_the_way_free(guard: Guard) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            deaf = stack.enter_context(plug(guard, "status.sock"))
            deaf.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        began = time.monotonic()
        assert look(guard)["mode"] == "enforce"
        assert time.monotonic() - began < 3.0


def test_many_at_once_all_get_an_answer(guard: Guard) -> None:
    """Forty threads, each with its own wish: every one is answered, and the last word holds."""
    answers: list[int] = []

    def wish(number: int) -> None:
        path, body = ("/pause", b'{"seconds": 60}') if number % 2 else ("/resume", b"")
        answers.append(ask(guard, "control.sock", "POST", path, body)[0])

    threads = [threading.Thread(target=wish, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 40
    assert ask(guard, "control.sock", "POST", "/resume")[0] == 200
    wait_look(guard, lambda told: told["mode"] == "enforce", "resumed")


def test_a_crowd_beyond_the_limit_passes(guard: Guard) -> None:
    """More silent clients than connections: they are shown out, and those who come next are served."""
    crowd = []
    for _ in range(90):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)  # noqa: FBT003 - its only signature
        with contextlib.suppress(BlockingIOError):
            client.connect(str(guard.runtime / "status.sock"))
        crowd.append(client)
    assert ask(guard, "control.sock", "POST", "/resume")[0] == 200  # the other socket does not care
    wait_look(guard, lambda told: told["mode"] == "enforce", "the crowd was shown out", 30)
    for client in crowd:
        client.close()


def test_without_its_group_a_socket_is_for_its_owner_alone_and_that_is_said_once(guard: Guard) -> None:
    """0660 in the process' own group would let all of that group act."""
    expected = {}
    for name, group in (("status.sock", "ollama-guard"), ("control.sock", "ollama-guard-admin")):
        with contextlib.suppress(KeyError):
            expected[name] = grp.getgrnam(group).gr_gid
        info = (guard.runtime / name).stat()
        assert stat.S_IMODE(info.st_mode) == (0o660 if name in expected else 0o600)
        assert name not in expected or info.st_gid == expected[name]
    missing = 2 - len(expected)
    assert len(warned(guard, "is for its owner alone")) == (missing > 0)


@pytest.mark.skipif(not ROOT, reason="only root can give capabilities up and files away")
@pytest.mark.parametrize(
    ("command", "group"),
    [(["status"], "ollama-guard"), (["pause", "1h"], "ollama-guard-admin"),
     (["unload", "--all"], "ollama-guard-admin")],
)  # fmt: skip
def test_who_may_not_is_told_which_group_to_join(guard: Guard, command: list[str], group: str) -> None:
    """A user without rights: exit 69, one sentence, nothing done."""
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    faces = [guard.runtime / name for name in ("status.sock", "control.sock")]
    for face in faces:  # this user is as good as any other who does not own the sockets
        os.chown(face, 65534, 65534)
    try:
        argv = [*bound, str(PROGRAM), *command, "--runtime-dir", str(guard.runtime)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    finally:
        for face in faces:
            os.chown(face, 0, 0)
    assert done.returncode == 69
    (sentence,) = done.stderr.splitlines()
    assert f"usermod -aG {group} " in sentence
    assert look(guard)["mode"] == "enforce"


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize("face", ["status.sock", "control.sock"])
def test_the_kernel_keeps_others_out(guard: Guard, face: str, tmp_path: Path) -> None:
    """A real other user (65534) with a connect(2) of its own."""
    assert tmp_path.exists()
    folder = os.open(guard.runtime, os.O_PATH)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            become_nobody()
            try:
                socket.socket(socket.AF_UNIX).connect(f"/proc/self/fd/{folder}/{face}")
                os.write(writer, b"connected")
            except OSError as error:
                os.write(writer, type(error).__name__.encode())
            code = 0
        os._exit(code)
    os.close(writer)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"PermissionError"
    os.close(reader)
    os.close(folder)


def test_http_client_is_what_people_use(guard: Guard) -> None:
    """Keep-alive connections and pipelined requests are answered in order."""
    connection = UnixConnection(guard.runtime / "status.sock")
    try:
        for _ in range(3):
            connection.request("GET", "/status")
            response: http.client.HTTPResponse = connection.getresponse()
            assert response.status == 200
            assert json.loads(response.read())["mode"] == "enforce"
    finally:
        connection.close()
