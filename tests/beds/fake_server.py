"""The fake Ollama in the dialect since 0.30, with models of the real shelf's sizes."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from beds.http import free_port, request
from beds.process import Launcher, Started
from ollama_guard.testing.fake import FakeOllama

# Files and KV caches as on the real shelf (beds/real_ollama.py), loading as fast as it does here.
# A tenth of a core is plenty to be seen at work by, and leaves the others to those who are tested.
SHELF = (
    "tiny=94MiB,kv=23040,rate=400,alias=tiny-alias,cpu=0.1",
    "tiny2=94MiB,kv=23040,rate=400,cpu=0.1",
    "tiny3=94MiB,kv=23040,rate=400,cpu=0.1",
    "mid=347MiB,kv=115200,rate=800,cpu=0.1",
    "mid2=347MiB,kv=115200,rate=800,cpu=0.1",
    "big=876MiB,kv=307200,rate=600,cpu=0.1",
    "big2=876MiB,kv=307200,rate=600,cpu=0.1",
)
ENVIRONMENT = {"OLLAMA_CONTEXT_LENGTH": "2048", "OLLAMA_MAX_LOADED_MODELS": "9", "OLLAMA_KEEP_ALIVE": "1h"}
_START_SECONDS = 20.0


class FakeServer:
    """A `FakeOllama` behind the stories' face; ``fake`` is the thing itself, for its faults.

    ``options`` are further ones of `FakeOllama`.
    """

    def __init__(
        self, cgroup_procs: Sequence[Path] = (), models: Sequence[str] = SHELF, **options: Any
    ) -> None:
        self.fake = FakeOllama(models, env=ENVIRONMENT, cgroup_procs=cgroup_procs, **options)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fake.close()

    @property
    def url(self) -> str:
        """Where its API is."""
        return self.fake.url

    @property
    def port(self) -> int:
        """The port of its API."""
        return self.fake.port

    @property
    def pid(self) -> int:
        """The server's PID."""
        return self.fake.pid

    def start(self) -> None:
        """Start it (again), waiting until it answers."""
        self.fake.start()

    def stop(self) -> None:
        """End it and its runners."""
        self.fake.stop()

    def get(self, path: str, timeout: float = 10.0) -> Any:
        """GET a path."""
        return request(self.url, "GET", path, timeout=timeout)

    def load(self, model: str, **options: Any) -> None:
        """Load a model and return once it is there."""
        request(self.url, "POST", "/api/generate", {"model": model, "stream": False} | options, timeout=120.0)

    def blob(self, model: str) -> Path:
        """The file of a model's weights."""
        return self.fake.models_dir / "blobs" / f"sha256-{self.fake.blob(model).removeprefix('sha256:')}"

    def runner_pids(self) -> dict[str, int]:
        """Model name to the PID of its runner (loading ones too), from the control port."""
        return _runner_pids(self.fake.state())


class LaunchedFake:
    """The same fake started by a launcher, for a bed with PIDs of its own.

    Only what such a bed's stories need; `runner_pids` are as the inside numbers them.
    """

    def __init__(self, launcher: Launcher, models: Sequence[str] = SHELF) -> None:
        self._launcher = launcher
        self._home = tempfile.TemporaryDirectory(prefix="launched-fake-")
        self._port, self._control_port = free_port(), free_port()
        self._models = models
        self._started: Started | None = None

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "ollama_guard.testing.fake", f"--host=127.0.0.1:{self._port}"]
        argv += [f"--control-port={self._control_port}", f"--models-dir={self._home.name}/models"]
        argv += [f"--model={model}" for model in self._models]
        with (Path(self._home.name) / "log").open("wb") as log:
            self._started = self._launcher(
                argv, env={"PATH": os.environ["PATH"]} | ENVIRONMENT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._started.poll() is not None or time.monotonic() > deadline:
                said = Path(log.name).read_text(errors="replace")
                self.__exit__()
                raise TimeoutError(f"the fake did not start:\n{said}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._started is not None:
            self._started.stop()
        self._home.cleanup()

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The server's PID, as this machine numbers it."""
        assert self._started is not None
        return self._started.pid

    def load(self, model: str) -> None:
        """Load a model and return once it is there."""
        request(self.url, "POST", "/api/generate", {"model": model, "stream": False}, timeout=120.0)

    def runner_pids(self) -> dict[str, int]:
        """Model name to the PID of its runner, from the control port."""
        return _runner_pids(request(f"http://127.0.0.1:{self._control_port}", "GET", "/state", timeout=10.0))

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            request(self.url, "GET", "/api/version", timeout=1.0)
            return True
        return False


def _runner_pids(state: dict[str, Any]) -> dict[str, int]:
    by_length = sorted(state["blobs"].items(), key=lambda pair: -len(pair[0]))
    names = {blob: name.removesuffix(":latest") for name, blob in by_length}
    return {names[runner["blob"]]: runner["pid"] for runner in state["runners"] if runner["alive"]}
