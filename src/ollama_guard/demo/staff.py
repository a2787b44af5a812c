"""The programs of the show beside the fake Ollama: the guard and the hog, each ended with the show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from ollama_guard.settings.compiler import canonical_json, compile_file
from ollama_guard.testing import hog

# What the daemon's manager tells it of its own place is not about the demo's guard.
_NOT_INHERITED = (
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
)  # fmt: skip
# The guard ends within a second of TERM; then it is killed, and its own children with it.
_STOP_SECONDS = 1.2
# The status is in memory of hands; who waits longer for it waits for nothing (seconds).
_STATUS_SECONDS = 0.5
_READ_BYTES = 64 * 1024


class Guard:
    """The real sentinel and, started by it, the real hands, on the policy in ``demo.toml``."""

    def __init__(self, folder: Path) -> None:
        for name in ("run", "state", "cgroup"):
            (folder / name).mkdir()
        policy = canonical_json(compile_file(folder / "demo.toml"))
        with _memfd(policy) as file:
            argv = [sys.executable, "-I", "-m", "ollama_guard.demo.sentinel", "--folder", str(folder)]
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*argv, "--policy-fd", str(file.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                pass_fds=(file.fileno(),),
                start_new_session=True,  # a Ctrl-C is for the show, which then ends it in order
            )
        assert self._process.stderr is not None
        self._log = self._process.stderr.fileno()
        os.set_blocking(self._log, False)
        self._rest = b""
        transport = httpx.HTTPTransport(uds=str(folder / "run" / "status.sock"), verify=False)
        self._client = httpx.Client(transport=transport, timeout=_STATUS_SECONDS, trust_env=False)

    @property
    def alive(self) -> bool:
        """Whether the sentinel runs."""
        return self._process.poll() is None

    def events(self) -> list[dict[str, Any]]:
        """The log lines since the last call, each with ``wall``: its time in epoch seconds."""
        with suppress(BlockingIOError):
            while data := os.read(self._log, _READ_BYTES):
                self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        found = []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # what Python itself prints when it breaks
                event = json.loads(line)
                found.append({**event, "wall": datetime.fromisoformat(event["time"]).timestamp()})
        return found

    def status(self) -> dict[str, Any] | None:
        """The status document, None while there is none."""
        try:
            response = self._client.get("http://ollama-guard/status")
            document = response.json() if response.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def ask_to_stop(self) -> None:
        """TERM; `close` waits for the end."""
        self._process.terminate()

    def close(self) -> None:
        """End it, its hands and helpers."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


class Hog:
    """The neighbour: a process that takes real memory."""

    def __init__(self, folder: Path) -> None:
        progress = folder / "hog"
        progress.touch()
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", hog.__file__, str(progress)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self.rate = self.target_bytes = 0

    @property
    def pid(self) -> int:
        """Its PID."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def grow(self, target_bytes: int, bytes_per_second: int) -> None:
        """Begin to grow to ``target_bytes`` in all."""
        self.rate, self.target_bytes = bytes_per_second, target_bytes
        assert self._process.stdin is not None
        self._process.stdin.write(f"grow {target_bytes} {bytes_per_second}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """Its work is done, or nobody waits for it any more."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def _memfd(text: str) -> Any:
    file = os.fdopen(os.memfd_create("ollama-guard-policy", 0), "w+", encoding="utf-8")
    file.write(text)
    file.flush()
    file.seek(0)
    return file


def _environment() -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    return kept | {"OLLAMA_GUARD_LOG": "json"}
