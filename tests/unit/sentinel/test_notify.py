"""The service manager's protocol, against a real datagram socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.sentinel.notify import Notifier
from unit.sentinel.rights import without_rights


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.setblocking(False)  # noqa: FBT003 - its only signature
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield sock


def heard(sock: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_it_speaks_the_protocol(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready()
    notifier.reloading(12.5)
    notifier.stopping()
    notifier.close()
    assert heard(manager) == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=12500000", "STOPPING=1"]


def test_the_same_status_is_sent_once(manager: socket.socket) -> None:
    notifier = Notifier()
    for line in ("ok", "ok", "soft", "ok"):
        notifier.status(line)
    notifier.close()
    assert heard(manager) == ["STATUS=ok", "STATUS=soft", "STATUS=ok"]


def test_the_watchdog_is_fed_at_most_once_a_second(manager: socket.socket) -> None:
    notifier = Notifier()
    for tenth in range(25):
        notifier.watchdog(tenth / 10)
    notifier.close()
    assert heard(manager) == ["WATCHDOG=1"] * 3


def test_a_manager_that_does_not_read_never_blocks_and_is_counted(manager: socket.socket) -> None:
    notifier = Notifier()
    for number in range(2000):
        notifier.status(f"line {number}")
    assert notifier.dropped > 0
    notifier.close()
    assert heard(manager)[0] == "STATUS=line 0"


def test_without_a_manager_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready()
    notifier.close()
    assert not notifier.active
    assert "not set" in notifier.reason


def test_a_socket_that_is_not_there_is_a_reason_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    notifier = Notifier()
    notifier.ready()
    assert not notifier.active
    assert "is not there" in notifier.reason


def test_a_socket_that_may_not_be_looked_at_is_a_reason_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    monkeypatch.setenv("NOTIFY_SOCKET", str(hidden / "notify"))
    hidden.chmod(0)
    with without_rights():
        notifier = Notifier()
    hidden.chmod(0o700)
    assert not notifier.active
    assert "is not there" in notifier.reason
