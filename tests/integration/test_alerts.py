"""The webhook as a real server is, and real hands that tell it; they may die, it may hang."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.hands import HandsBed
from beds.http import HttpFailure
from beds.scripted import Script, answer, drip, hang_up, reset, scripted, silence
from beds.yard import MIB
from ollama_guard.core.expendable import OOM_SCORE_ADJ
from ollama_guard.core.policy import NotifyPolicy, OllamaPolicy, Policy
from ollama_guard.errors import AlertFailed
from ollama_guard.hands.adapters.webhook import deliver, host_of
from ollama_guard.wire import Beat, Noticed

PROGRAM = Path(sys.executable).with_name("ollama-guard")
DEADLINE_SECONDS = 0.6
# On a loaded machine; a deadline that holds per receive only would be passed tenfold.
SLACK_SECONDS = 1.0
NOTICE = Noticed("blob.condemned", "big is condemned", 1_700_000_000.0, {"blob": "sha256:x"})
UGLY: dict[str, tuple[Script, str]] = {
    "silence": (silence, "did not answer within 0.6 s"),
    "headers that drip": (drip(b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000), "did not answer"),
    "a body that drips": (
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" " * 1000), "did not answer",
    ),
    "a 500": (answer(b"secret", "500 Internal Server Error"), "answered with 500"),
    "a 404": (answer(b"", "404 Not Found"), "answered with 404"),
    "a redirect": (answer(b"", "302 Found", "Location: http://127.0.0.1:1/"), "a redirect (302)"),
    "a reset": (reset, "broke off its answer"),
    "a close in the middle": (hang_up, "broke off its answer"),
    "garbage": (lambda c, _: c.sendall(b"\x00\x16\x03\r\n\r\n"), "broke off its answer"),
}  # fmt: skip


class Hook:
    """A webhook that keeps what it is sent, and takes it only while it is told to."""

    def __init__(self, *, taking: bool = True) -> None:
        self.taking = taking
        self.tried = 0
        self.documents: list[dict[str, Any]] = []
        self._heads: dict[socket.socket, bytes] = {}

    def served(self) -> AbstractContextManager[str]:
        """Serve it; yields the URL."""
        return scripted(self._answer, self._heads)

    def _answer(self, connection: socket.socket, over: threading.Event) -> None:
        self.tried += 1
        _, _, body = self._heads[connection].partition(b"\r\n\r\n")
        while not body.endswith(b"}") and (more := connection.recv(65536)):
            body += more
        if self.taking:
            self.documents.append(json.loads(body))
        answer(b"", "204 No Content" if self.taking else "503 Service Unavailable")(connection, over)


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def policy(nobody: str, webhook: str) -> Policy:
    return Policy(ollama=OllamaPolicy(url=nobody), notify=NotifyPolicy(webhook, 2.0))


def until(what: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.mark.parametrize("ugly", UGLY)
def test_every_ugly_answer_is_a_failure_within_the_deadline(ugly: str) -> None:
    script, said = UGLY[ugly]
    with scripted(script) as url:
        started = time.monotonic()
        with pytest.raises(AlertFailed) as caught:
            deliver(f"{url}/hooks/s3cret?key=s3cret", b"{}", DEADLINE_SECONDS)
        took = time.monotonic() - started
    assert said in str(caught.value)
    assert host_of(url) in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert took < DEADLINE_SECONDS + SLACK_SECONDS


def test_a_password_in_the_url_is_sent_and_never_said() -> None:
    heads: dict[socket.socket, bytes] = {}
    with scripted(answer(b""), heads) as url:
        deliver(url.replace("http://", "http://me:s3cret@"), b"{}", 2.0)
    (head,) = heads.values()
    assert b"authorization: Basic" in head.replace(b"Authorization", b"authorization")
    assert "s3cret" not in host_of("http://me:s3cret@example.org:8080/s3cret")


def test_nobody_there_is_said_with_the_host_alone(nobody: str) -> None:
    with pytest.raises(AlertFailed, match="can't be reached"):
        deliver(f"{nobody}/s3cret", b"{}", 2.0)


UNREACHABLE = "from ollama_guard.hands.adapters.webhook import deliver; deliver({url!r}, b'{{}}', {seconds})"


def unreachable(url: str, seconds: float, *, unit: bool) -> str:
    """What a delivery says in a network without a way out; packets to 192.0.2.* vanish, as under the unit."""
    argv = [sys.executable, "-I", "-c", UNREACHABLE.format(url=url, seconds=seconds)]
    inside = 'ip link set lo up && ip route add 192.0.2.0/24 dev lo && exec "$@"'
    environment = {key: value for key, value in os.environ.items() if key != "INVOCATION_ID"}
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", inside, "-", *argv],
        env=environment | ({"INVOCATION_ID": "0" * 32} if unit else {}),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if "AlertFailed" not in done.stderr:
        pytest.skip(f"no network of its own: {done.stderr}")
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("url", ["http://192.0.2.1/s3cret", "http://chat.invalid/s3cret"])
def test_under_the_unit_what_can_not_be_reached_is_told_with_the_drop_in_that_may_be_missing(
    url: str,
) -> None:
    """Packets dropped at the way out are a time-out for a connection, a failed look-up for a name."""
    told = unreachable(url, 1.0, unit=True)
    assert "network.conf" in told
    assert "s3cret" not in told
    assert "network.conf" not in unreachable(url, 1.0, unit=False)


def test_a_webhook_of_this_machine_that_is_down_is_told_without_a_word_of_the_unit(
    monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "0" * 32)
    with pytest.raises(AlertFailed, match=r"can't be reached: [^;]*$"):
        deliver(nobody, b"{}", 2.0)
    with scripted(silence) as url, pytest.raises(AlertFailed, match=r"did not answer within 0.2 s$"):
        deliver(url, b"{}", 0.2)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", nobody)
    monkeypatch.setenv("ALL_PROXY", nobody)
    with scripted(answer(b"")) as url:
        deliver(url, b"{}", 2.0)


def test_hands_tell_what_they_are_told_with_who_holds_memory(nobody: str, tmp_path: Path) -> None:
    hook = Hook()
    with hook.served() as url, HandsBed(tmp_path, policy(nobody, url)) as hands:
        hands.wait_for(Beat)
        hands.channel.send(NOTICE)
        until(lambda: bool(hook.documents))
        until(lambda: any(event["event"] == "alert.sent" for event in hands.events()))
    assert hook.documents[0]["event"] == "blob.condemned"
    assert hook.documents[0]["consumers"], "this machine's largest consumers"


def test_an_alert_outlives_a_kill_of_hands(nobody: str, tmp_path: Path) -> None:
    hook = Hook(taking=False)
    spool = tmp_path / "state" / "alerts"
    with hook.served() as url:
        with HandsBed(tmp_path, policy(nobody, url)) as first:
            first.wait_for(Beat)
            first.channel.send(NOTICE)
            until(lambda: hook.tried > 0 and len(list(spool.glob("[0-9]*.json"))) == 1)
            first.process.kill()
            first.process.wait()
        hook.taking = True
        with HandsBed(tmp_path, policy(nobody, url)) as second:
            second.wait_for(Beat)
            until(lambda: bool(hook.documents))
            until(lambda: not list(spool.glob("[0-9]*.json")))
    assert [document["message"] for document in hook.documents] == ["big is condemned"]


def test_a_webhook_that_hangs_holds_nothing_up(nobody: str, tmp_path: Path) -> None:
    with scripted(silence) as url, HandsBed(tmp_path, policy(nobody, url)) as hands:
        hands.wait_for(Beat)
        hands.channel.send(NOTICE)
        until(lambda: any(event["event"] == "alert.failed" for event in hands.events()))
        hands.forget()
        hands.wait_for(Beat, seconds=3)
        assert hands.ask("control.sock", "GET", "/unload")[0] == 405


def test_a_disk_that_hangs_costs_no_alert_and_no_beat(nobody: str, tmp_path: Path) -> None:
    """A FIFO that nobody writes to stands in for the disk: opening it never comes back."""
    hook, spool = Hook(), tmp_path / "state" / "alerts"
    spool.mkdir(parents=True)
    os.mkfifo(spool / "1700000000000-0000.json")
    with hook.served() as url, HandsBed(tmp_path, policy(nobody, url)) as hands:
        hands.wait_for(Beat)
        hands.channel.send(NOTICE)
        until(lambda: bool(hook.documents))
        until(lambda: any("would not survive" in event["message"] for event in hands.events()))
        hands.forget()
        hands.wait_for(Beat, seconds=3)


@pytest.mark.parametrize(("taking", "code"), [(True, 0), (False, 1)], ids=["taken", "refused"])
@pytest.mark.parametrize("running", [True, False], ids=["through hands", "directly"])
def test_a_test_by_hand_ends_as_it_went(
    nobody: str, tmp_path: Path, code: int, *, taking: bool, running: bool
) -> None:
    hook = Hook(taking=taking)
    with hook.served() as url:
        (tmp_path / "guard.toml").write_text(f'[notify]\nwebhook = "{url}/s3cret"\ntimeout = "5s"\n')
        (tmp_path / "run").mkdir()
        argv = [
            PROGRAM,
            "notify",
            "test",
            "--config",
            tmp_path / "guard.toml",
            "--runtime-dir",
            tmp_path / "run",
        ]
        if running:
            with HandsBed(tmp_path, policy(nobody, f"{url}/s3cret")) as hands:
                hands.wait_for(Beat)
                ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        else:
            ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr
    assert host_of(url) in ended.stdout + ended.stderr
    assert "s3cret" not in ended.stdout + ended.stderr
    assert ("no guard runs" in ended.stdout + ended.stderr) is not running
    assert [document["event"] for document in hook.documents] == ["notify.test"] * taking


@pytest.mark.skipif(os.geteuid() != 0, reason="a memory cgroup needs root")
def test_the_owner_is_told_of_a_model_that_can_t_fit(memory_cgroup: Callable[[int], MemoryCgroup]) -> None:
    """The whole way: two aborted loads, a condemned blob, hands, the webhook; and its runner dies first."""
    hook = Hook()
    cgroup = memory_cgroup(512 * MIB)
    models = ("tiny=40MiB,kv=23040,rate=400", "huge=2000MiB,kv=23040,rate=300")
    with hook.served() as url, FakeServer(cgroup.join_paths, models) as server:
        config = f'[notify]\nwebhook = "{url}"\n'
        with Guard(server.url, cgroup=f"/{cgroup.name}", config=config) as guard:
            guard.wait_guarding(server.pid)
            server.load("tiny")
            adjusted = Path(f"/proc/{server.runner_pids()['tiny']}/oom_score_adj")
            until(lambda: int(adjusted.read_text()) == OOM_SCORE_ADJ)
            until(lambda: tried(server) and bool(hook.documents), seconds=60)
    (document,) = hook.documents
    assert document["event"] == "blob.condemned"
    assert "huge" in document["text"]
    assert document["consumers"]


def tried(server: FakeServer) -> bool:
    with contextlib.suppress(OSError, HttpFailure):
        server.load("huge")
    return True


def test_without_a_webhook_a_test_by_hand_says_which_key_to_set(tmp_path: Path) -> None:
    (tmp_path / "guard.toml").write_text("")
    argv = [PROGRAM, "notify", "test", "--config", tmp_path / "guard.toml", "--runtime-dir", tmp_path]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "[notify] webhook" in ended.stderr
