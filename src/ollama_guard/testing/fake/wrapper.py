"""`FakeOllama`: a fake Ollama as a child process, for tests and for the demo."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ollama_guard.testing.fake import ledger
from ollama_guard.testing.fake.calls import Answer, Stream, call
from ollama_guard.testing.fake.spec import full_name

_READY_SECONDS = 15.0  # it takes about 0.3 s; the rest is for a machine that is short of CPU or memory
_STOP_SECONDS = 5.0  # before SIGTERM is followed by SIGKILL
_LOOK_SECONDS = 0.01
_TAIL = 2000  # characters of the log that an error shows
_SOURCE = Path(__file__).parents[3]


class FakeOllama:
    """A running fake; ``with FakeOllama(["small=20MiB", "big=80MiB,alias=big2"]) as fake: …``.

    ``models`` as on the command line (docs/fake-ollama.md). ``env`` adds OLLAMA_* and LLAMA_ARG_*; those of
    the caller are not inherited. ``cgroup_procs``: files into which the child writes itself before exec.
    ``user``: run as this uid (the caller is root). `start` may be called again after `stop` or a
    crash: same port, same models. `stop` leaves no process behind, orphaned runners included.
    """

    def __init__(  # noqa: PLR0913 - keywords that tests pick from, each with a default
        self,
        models: Sequence[str] = ("small=20MiB",),
        *,
        dialect: str = "new",
        version: str | None = None,
        remotes: Sequence[str] = (),
        models_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        cgroup_procs: Sequence[Path] = (),
        user: int | None = None,
        port: int = 0,
        prefix: Path = Path("/usr/local"),
        start_delay_seconds: float = 0.0,
        python: str = sys.executable,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fake-ollama-"))
        self.models_dir = models_dir or self._folder / "models"
        self.models_dir.mkdir(parents=True, exist_ok=True)
        self.log_path = self._folder / "log"
        self.dialect, self.port, self.control_port = dialect, port, 0
        self._ledger = self._folder / "runners"
        self._ledger.touch()
        self._user, self._cgroup_procs, self._python = user, tuple(cgroup_procs), python
        if user is not None:
            for path in (self._folder, self.models_dir, self._ledger):
                os.chown(path, user, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: int | None = None
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "LLAMA_ARG_"))}
        self._env = kept | {"PYTHONPATH": str(_SOURCE), "PYTHONDONTWRITEBYTECODE": "1"} | dict(env or {})
        self._arguments = [
            f"--dialect={dialect}",
            f"--models-dir={self.models_dir}",
            f"--ledger={self._ledger}",
        ]
        self._arguments += [f"--prefix={prefix}", f"--start-delay={start_delay_seconds}"]
        self._arguments += [f"--model={model}" for model in models] + [f"--remote={name}" for name in remotes]
        self._arguments += [f"--version={version}"] if version else []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Life and death

    def start(self) -> Self:
        """Start the server and wait until it listens; TimeoutError with its log when it does not."""
        ready, ready_child = os.pipe()
        leash_child, self._leash = os.pipe()
        fds = [f"--ready-fd={ready_child}", f"--leash-fd={leash_child}", f"--host=127.0.0.1:{self.port}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [self._python, "-m", "ollama_guard.testing.fake", *self._arguments, *fds],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                pass_fds=(ready_child, leash_child),
                user=self._user,
                preexec_fn=self._join_cgroups if self._cgroup_procs else None,  # noqa: PLW1509 - only writes files
            )
        os.close(ready_child)
        os.close(leash_child)
        try:
            readable, _, _ = select.select([ready], [], [], _READY_SECONDS)
            data = os.read(ready, 4096) if readable else b""
        finally:
            os.close(ready)
        if not data:
            self.stop()
            raise TimeoutError(f"the fake did not start:\n{self.log()}")
        ports = json.loads(data)
        self.port, self.control_port = ports["port"], ports["control_port"]
        return self

    def _join_cgroups(self) -> None:
        for path in self._cgroup_procs:
            path.write_text("0")

    def stop(self) -> int | None:
        """SIGTERM (SIGKILL after 5 s), then kill every runner left over; returns the exit status."""
        status = None
        if self._process is not None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a test may have stopped it
            try:
                status = self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                status = self._process.wait()
            self._process = None
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None
        for row in ledger.read(self._ledger):
            row.kill()
        return status

    def close(self) -> None:
        """`stop`, and remove the temporary folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL the server alone: its runners are orphaned (facts 2.7)."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait_exit(self, timeout_seconds: float = _STOP_SECONDS) -> int:
        """The exit status of a server that ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout_seconds)

    # What it is

    @property
    def pid(self) -> int:
        """The server's PID."""
        assert self._process is not None, "the fake is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """Both output streams of the server so far."""
        return self.log_path.read_text(errors="replace")

    def state(self) -> dict[str, Any]:
        """The truth, from the control port: pid, runners (loading too), waiting, blobs, outbound_calls."""
        state: dict[str, Any] = call(self.control_port, "GET", "/state").value
        return state

    def runner(self, model: str) -> dict[str, Any] | None:
        """A runner by any name of its blob: pid, port, loading, references, alive, memory_bytes."""
        state = self.state()
        blob = state["blobs"].get(full_name(model))
        return next((runner for runner in state["runners"] if runner["blob"] == blob), None)

    def runner_pid(self, model: str) -> int:
        """The PID of a model's runner; LookupError when there is none."""
        runner = self.runner(model)
        if runner is None:
            raise LookupError(f"no runner of {model}")
        return int(runner["pid"])

    def orphans(self) -> list[int]:
        """The PIDs of all recorded runners that still live (of earlier servers too)."""
        return [row.pid for row in ledger.read(self._ledger) if row.alive]

    def blob(self, model: str) -> str:
        """The digest (hex) of a model's blob."""
        return str(self.state()["blobs"][full_name(model)])

    # As a client

    def get(self, path: str, timeout_seconds: float = 30.0) -> Answer:
        """GET one path of the API."""
        return call(self.port, "GET", path, None, timeout_seconds)

    def post(self, path: str, body: Any, timeout_seconds: float = 30.0) -> Answer:
        """POST one JSON value to the API."""
        return call(self.port, "POST", path, body, timeout_seconds)

    def ps(self) -> list[dict[str, Any]]:
        """The entries of ``/api/ps``."""
        models: list[dict[str, Any]] = self.get("/api/ps").value["models"]
        return models

    def loaded(self) -> list[str]:
        """The names in ``/api/ps``."""
        return [entry["name"] for entry in self.ps()]

    def load(self, model: str, keep_alive: Any = None, **options: Any) -> Answer:
        """Load a model and wait for it."""
        return self.post("/api/generate", _body(model, keep_alive, options))

    def unload(self, model: str) -> Answer:
        """Ask for an unload; it only marks (facts 1.5)."""
        return self.post("/api/generate", {"model": model, "keep_alive": 0})

    def stream(self, model: str, tokens: int = 100, keep_alive: Any = None, **options: Any) -> Stream:
        """A streaming answer in the background."""
        body = _body(model, keep_alive, options | {"num_predict": tokens}) | {"prompt": "say something"}
        return Stream(self.port, "/api/generate", body)

    def set_fault(self, kind: str, seconds: float | None = None, **options: Any) -> None:
        """Put a fault in force; ValueError when the server refuses it."""
        body = {"kind": kind, "seconds": seconds} | options
        if kind == "crash_server":
            with contextlib.suppress(OSError, ValueError):
                call(self.control_port, "POST", "/fault", body)
            self.wait_exit()
            return
        answer = call(self.control_port, "POST", "/fault", body)
        if answer.status != 200:
            raise ValueError(answer.error)

    def clear_faults(self) -> None:
        """End all faults; what hung goes on."""
        call(self.control_port, "DELETE", "/fault")

    def wait(self, condition: Callable[[], Any], timeout_seconds: float = 10.0) -> None:
        """Until the condition holds; TimeoutError with the log when it does not."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not come about in {timeout_seconds} s:\n{self.log()[-_TAIL:]}")
            time.sleep(_LOOK_SECONDS)


def _body(model: str, keep_alive: Any, options: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "options": options}
    return body if keep_alive is None else body | {"keep_alive": keep_alive}
