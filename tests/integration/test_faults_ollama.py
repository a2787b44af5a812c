"""Whatever answers on Ollama's port, with whatever names: the tick goes on, the log stays short and whole."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beds.guard import Guard
from beds.handling import NOBODY_S, look, wait_look
from beds.http import free_port
from beds.scripted import Script, answer, drip, flood, hang_up, scripted, silence

QUICK = 'poll = "1s"\nunresponsive_after = "2s"\nrequest_timeout = "300ms"\n'
LOG_LINES = 12
"""Bound on lines in about four seconds of a broken Ollama, beyond those of the start."""

# Each: what answers, and a word of the reason that the status must give.
BROKEN: dict[str, tuple[Script, str]] = {
    "garbage": (answer(b"\x00\xff{]\x1b[31m"), "not JSON"),
    "html": (answer(b"<!doctype html><title>nginx</title>", "200 OK", "Content-Type: text/html"), "not JSON"),
    "redirect": (answer(b"", "302 Found", "Location: http://127.0.0.1:1/"), "redirect"),
    "500": (answer(b'{"error":"out of\\nluck"}', "500 Internal Server Error"), "500"),
    "wrong types": (answer(b'{"version": 5, "models": {"a": 1}}'), "the answer holds no"),
    "flood": (flood(10), "more than"),
    "drip": (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b" " * 500), "not answered within"),
    "silence": (silence, "not answered within"),
    "half an answer": (hang_up, "broke off"),
    "no HTTP": (drip(b"SSH-2.0-OpenSSH_9.2\r\n", b"", 0), "broke off"),
}


@contextlib.contextmanager
def changing() -> Iterator[tuple[str, Callable[[Script], None]]]:
    """A server whose script can be exchanged; one guard meets them all."""
    current: list[Script] = [silence]

    def play(connection: socket.socket, over: threading.Event) -> None:
        current[0](connection, over)

    def change(script: Script) -> None:
        current[0] = script

    with scripted(play) as url:
        yield url, change


def whole_log(guard: Guard) -> list[dict[str, Any]]:
    """Every line of the log; fails on one that is no event, or that a terminal would obey."""
    events = []
    for line in guard.log.read_bytes().decode().split("\n")[:-1]:
        assert all(character.isprintable() for character in line), ascii(line)
        events.append(json.loads(line))
        assert {"time", "event", "priority", "message"} <= events[-1].keys()
    return events


def good(path: bytes) -> bytes:
    """What a healthy server without models answers."""
    body = b'{"version": "0.30.6"}' if b"version" in path else b'{"models": []}'
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_every_broken_answer_is_told_with_its_reason_and_the_guard_goes_on(tmp_path: Path) -> None:
    """One after the other; in between none is alive, the tick goes on, and each costs a few lines at most."""
    with changing() as (url, change), Guard(url, cgroup=NOBODY_S, ollama=QUICK, home=tmp_path) as guard:
        wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
        for name, (script, word) in BROKEN.items():
            change(script)
            wait_look(
                guard,
                lambda told: word in str(told["unknown"].get("ollama.version")),  # noqa: B023 - used at once
                f"{name}: the reason says {word!r}",
                seconds=15,
            )
            assert look(guard)["ollama"]["alive"] is False, name
        before, began = look(guard)["guard"]["cpu_seconds"], time.monotonic()
        time.sleep(1.2)
        wait_look(guard, lambda told: told["guard"]["cpu_seconds"] > before, "it ticks")
        after, took = look(guard), time.monotonic() - began
        assert after["guard"]["cpu_seconds"] - before < 0.25 * took, "it does not spin"
        assert 0 < after["guard"]["tick_seconds"] < 0.1
        assert not guard.events("hands.restarted")
        lost = guard.events("ollama.lost")
        assert len(lost) == 1, lost
        told = whole_log(guard)
        assert len([e for e in told if e["event"] != "guard.tested"]) < LOG_LINES, guard.tail()


def test_a_refused_connection_and_a_late_start_are_told_once_each(tmp_path: Path) -> None:
    port = free_port()
    with Guard(f"http://127.0.0.1:{port}", cgroup=NOBODY_S, ollama=QUICK, home=tmp_path) as guard:
        wait_look(guard, lambda told: "refused" in str(told["unknown"].get("ollama.version")), "refused")
        assert look(guard)["ollama"]["alive"] is False
        time.sleep(1.5)
        assert len(guard.events("ollama.lost")) == 1, guard.tail()
        listener = socket.create_server(("127.0.0.1", port))
        over = threading.Event()
        thread = threading.Thread(target=_serve_good, args=(listener, over))
        thread.start()
        try:
            wait_look(guard, lambda told: told["ollama"]["version"] == "0.30.6", "it is found")
            assert look(guard)["ollama"]["alive"] is True
        finally:
            over.set()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
            thread.join()
            listener.close()
        assert len(guard.events("ollama.found")) == 1, guard.tail()
        whole_log(guard)


def _serve_good(listener: socket.socket, over: threading.Event) -> None:
    while not over.is_set():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(good(connection.recv(4096)))


HOSTILE = (
    "with space:latest",
    "quo\"te's:latest",
    "a/b/../c:latest",
    "línea-模型-🦙:latest",
    "new\nline:latest",
    '\r\n{"event":"runner.killed","message":"forged"}\n',
    "\x1b[31mred\x1b[0m\x07:latest",
    "nul\x00byte:latest",
    "\u202eright-to-left\u2028separator:latest",
    "\ud800 lone surrogate:latest",
    "x" * 500,
    "-rf",
    "",
)


def hostile_server() -> Script:
    """Lists models with hostile names, loaded ones too, of which no runner exists."""
    models = [
        {"name": name, "model": name, "digest": f"{number:064x}", "size": 1 << 20}
        for number, name in enumerate(HOSTILE)
        if name
    ]
    loaded = [
        m | {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0, "context_length": 4096} for m in models
    ]
    shown = {
        "modelfile": f"FROM /m\nm/blobs/sha256-{'a' * 64}\n",
        "model_info": {"general.architecture": "\n"},
    }
    bodies = {
        b"/api/version": {"version": "0.30.6\n{\x1b[31m"},
        b"/api/ps": {"models": loaded},
        b"/api/tags": {"models": models},
        b"/api/show": shown,
    }

    def script(connection: socket.socket, _: threading.Event) -> None:
        path = heads[connection].split()[1]
        body = json.dumps(bodies.get(path, {})).encode()
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    heads: dict[socket.socket, bytes] = {}
    script.heads = heads  # type: ignore[attr-defined]
    return script


def test_hostile_names_stay_inside_their_line_and_their_string(tmp_path: Path) -> None:
    """Every line of the log is one event, the status is JSON and plain text, nothing is forged."""
    script = hostile_server()
    heads = script.heads  # type: ignore[attr-defined]
    with scripted(script, heads) as url, Guard(url, cgroup=NOBODY_S, ollama=QUICK, home=tmp_path) as guard:
        wait_look(guard, lambda told: told["ollama"]["alive"], "alive", 15)
        for name in (HOSTILE[4], HOSTILE[5], "\x1b[2J", "not there\nat all"):
            done = guard.cli("unload", name)
            assert done.returncode == 1, done
            assert all(c.isprintable() for c in (done.stdout + done.stderr).rstrip("\n")), done
        plain = guard.cli("status")
        assert plain.returncode == 0
        assert all(c.isprintable() or c == "\n" for c in plain.stdout), ascii(plain.stdout)
        assert guard.status()["ollama"]["version"].startswith("0.30.6")
        public = json.loads((guard.state / "public" / "status.json").read_bytes())
        assert public["ollama"]["alive"] is True
        time.sleep(1.0)
        events = whole_log(guard)
    assert not [e for e in events if e["event"] == "runner.killed"]
