"""A real `hands` process, with the sentinel's end of the channel in the test's hand."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from ollama_guard.channel import Channel
from ollama_guard.core.codec import to_plain
from ollama_guard.core.policy import Policy
from ollama_guard.wire import Message

T = TypeVar("T", bound=Message)


class HandsBed:
    """Starts hands as the sentinel does; `wait_for` and `told` read what they send."""

    def __init__(self, folder: Path, policy: Policy, log_form: str = "json") -> None:
        self.runtime_dir, self.state_dir = folder / "run", folder / "state"
        self._log = (folder / "log").open("ab")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        policy_fd = os.memfd_create("policy")
        os.write(policy_fd, json.dumps(to_plain(policy)).encode())
        os.lseek(policy_fd, 0, os.SEEK_SET)
        words = {
            "--fd": theirs.fileno(),
            "--policy-fd": policy_fd,
            "--runtime-dir": self.runtime_dir,
            "--state-dir": self.state_dir,
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-m",
                "ollama_guard.hands",
                *(str(x) for pair in words.items() for x in pair),
            ],
            pass_fds=(theirs.fileno(), policy_fd),
            stderr=self._log,
            env={**os.environ, "OLLAMA_GUARD_LOG": log_form},
        )
        theirs.close()
        os.close(policy_fd)
        self.channel = Channel(ours)
        self.received: list[Message] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def told(self, kind: type[T]) -> list[T]:
        """Every message of a kind so far."""
        self.received += self.channel.receive()
        return [message for message in self.received if isinstance(message, kind)]

    def wait_for(self, kind: type[T], fits: Callable[[T], bool] = lambda _: True, seconds: float = 10.0) -> T:
        """The first message of a kind that fits, also one that came before."""
        deadline = time.monotonic() + seconds
        while True:
            found = next((message for message in self.told(kind) if fits(message)), None)
            if found is not None:
                return found
            assert time.monotonic() < deadline, f"no such {kind.__name__} in {self.told(kind)[-3:]}"
            time.sleep(0.01)

    def forget(self) -> None:
        """Only what comes from now on counts."""
        self.received += self.channel.receive()
        self.received.clear()

    def events(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in Path(self._log.name).read_text().splitlines()]

    def ask(self, face: str, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        """One request to a socket: its status and its JSON."""
        connection = UnixConnection(self.runtime_dir / face)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, whose path may be longer than an address."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        """Connect by the folder's descriptor."""
        folder = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(20)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        except OSError:
            self.sock.close()
            raise
        finally:
            os.close(folder)
