"""The guard itself, run as a user runs it, and read through its log and its sockets."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from beds.hands import UnixConnection
from beds.process import Launcher, Started, launch

PROGRAM = Path(sys.executable).with_name("ollama-guard")
START_SECONDS = 20.0
"""It is ready in under 1 s on an idle machine."""

UNIT_NICE = -15
"""As systemd/ollama-guard.service sets it: without it a busy machine lets the guard come too late."""

AWAY = (OSError, KeyError, http.client.HTTPException)
"""What asking for the status may end in while `hands` are starting, away or dying."""

REPORT_SECONDS = 2.0
"""A guard that can't answer USR1 within this stands still."""


class Guard:
    """A running guard. Enter it to start it and wait for READY; leaving ends it.

    Args:
        url: Ollama's.
        cgroup: only servers below this cgroup path are guarded, since other tests' servers live beside ours;
            "" is for a machine of its own.
        config: further TOML, below the `[ollama]` table's own lines.
        launcher: who starts it: this machine, a cgroup, a small host.
    """

    def __init__(
        self,
        url: str,
        *,
        cgroup: str,
        config: str = "",
        ollama: str = "",
        launcher: Launcher = launch,
        home: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._own_home = None if home else tempfile.TemporaryDirectory(prefix="guard-")
        self.home = home or Path(self._own_home.name if self._own_home else "")
        self.runtime = self.home / "run"
        self.state = self.home / "state"
        self.config = self.home / "guard.toml"
        self.log = self.home / "guard.log"
        head = f'[ollama]\nurl = "{url}"\n' + (f'cgroup = "{cgroup}"\n' if cgroup else "") + ollama
        self.config.write_text(f"{head}\n{config}")
        self._launcher = launcher
        self._env = {
            "PATH": os.environ["PATH"],
            "RUNTIME_DIRECTORY": str(self.runtime),
            "STATE_DIRECTORY": str(self.state),
            "OLLAMA_GUARD_LOG": "json",
            **(env or {}),
        }
        self._started: Started | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._own_home is not None:
            self._own_home.cleanup()

    @property
    def pid(self) -> int:
        """The sentinel's PID, as this machine numbers it."""
        assert self._started is not None
        return self._started.pid

    @property
    def hands_pid(self) -> int:
        """The PID of `hands`: the sentinel's child that runs them."""
        for pid in _children(self.pid):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"ollama_guard.hands" in argv:
                return pid
        raise ProcessLookupError("the guard has no hands now")

    def start(self, *arguments: str) -> None:
        """Start it and wait until it says that it guards."""
        count = len(self.events("guard.started"))
        with self.log.open("ab") as log:
            self._started = self._launcher(
                [str(PROGRAM), "run", "--config", str(self.config), *arguments],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self._started.pid, UNIT_NICE)
        self.wait(lambda: len(self.events("guard.started")) > count, START_SECONDS, "guard.started")

    def stop(self) -> None:
        """TERM, then KILL; safe to call twice."""
        if self._started is not None:
            self._started.stop()
            self._started = None

    def kill(self) -> None:
        """SIGKILL the sentinel, as a crash would end it."""
        assert self._started is not None
        self._started.signal(signal.SIGKILL)
        self._started.wait(10)
        self._started = None

    def events(self, name: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """The log so far, one dict an event; only those of a name and with these fields."""
        if not self.log.exists():
            return []
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if name in (None, event.get("event")) and all(event.get(k) == v for k, v in fields.items()):
                found.append(event)
        return found

    def wait(self, check: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until `check()` holds, else fail with the end of the log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if check():
                return
            if self._started is not None and self._started.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.tail()}")

    def wait_event(self, name: str, seconds: float, **fields: object) -> dict[str, Any]:
        """Wait for an event and return it."""
        self.wait(lambda: self.events(name, **fields), seconds, f"{name} {fields}")
        return self.events(name, **fields)[-1]

    def wait_guarding(self, server_pid: int, seconds: float = 10.0) -> None:
        """Wait until the guard has found this server and has heard from its API."""
        self.wait(
            lambda: any(e.get("pid") == server_pid for e in self.events("ollama.found")),
            seconds,
            "ollama.found",
        )
        self.wait(self._hears_ollama, seconds, "a first answer of the API")

    def _hears_ollama(self) -> bool:
        with contextlib.suppress(*AWAY):
            return bool(self.status()["ollama"]["alive"])
        return False

    def cli(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run another command of the program against this guard."""
        return subprocess.run(
            [str(PROGRAM), *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def tell(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """As `cli`, with this guard's own configuration."""
        return self.cli(*arguments, f"--config={self.config}", timeout=timeout)

    def status(self) -> dict[str, Any]:
        """What `status --json` prints, straight from the socket: a command takes half a second to start.

        Raises one of `AWAY` when `hands` don't answer.
        """
        connection = UnixConnection(self.runtime / "status.sock")
        try:
            connection.request("GET", "/status")
            document: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return document

    def model_states(self) -> dict[str, str]:
        """Every name (without `:latest`) of every live runner's model, to its state; {} if nobody answers."""
        with contextlib.suppress(*AWAY):
            return {
                name.removesuffix(":latest"): model["state"]
                for model in self.status()["models"]
                for name in (model["name"] or model["blob"] or "?", *model["aliases"])
            }
        return {}

    def tail(self, lines: int = 40) -> str:
        """The end of the log, for a failing test's message."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )

    def report(self) -> dict[str, Any]:
        """What it says of itself on USR1: level, ticks, events dropped; {} when it does not answer."""
        told = len(self.events("guard.reported"))
        if self._started is not None:
            self._started.signal(signal.SIGUSR1)
        with contextlib.suppress(AssertionError):
            self.wait(lambda: len(self.events("guard.reported")) > told, REPORT_SECONDS, "guard.reported")
            return self.events("guard.reported")[-1]
        return {}


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found.extend(map(int, (task / "children").read_text().split()))
    return found
