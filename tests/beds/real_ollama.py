"""Bed 1: a real Ollama server with real models (needs no root; a cgroup for it does).

The shelf, as measured with one slot of 2048 tokens (`OLLAMA_NUM_PARALLEL=1`):

| model | layers | file | runner's RSS once loaded | `/api/ps` size | load |
|---|---|---|---|---|---|
| tiny, tiny2, tiny3 | 30 | 98 MB | 190 MiB | 237 MiB | 0.6 s |
| mid, mid2 | 150 | 364 MB | 625 MiB | 671 MiB | 0.8 s |
| big, big2 | 400 | 919 MB | 1,537 MiB | 1,574 MiB | 1.6-2.8 s |

Nearly all of a runner is anonymous memory, and an answer adds 4 MiB; the server itself holds 35 MiB. Two
busy cores gave 24-58 tokens/s (tiny), 6-19 (mid), 9 (big): a client that must last a given time
measures first (`StreamingClient.lasting`).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Self

from beds import BedUnavailable
from beds.grow_model import grow_model
from beds.http import free_port, request
from beds.locks import locked
from beds.ollama_install import Installation, install, located
from beds.process import Launcher, Started, argv_of, children, launch, rss_bytes

SHELF = {"tiny": 30, "tiny2": 30, "tiny3": 30, "mid": 150, "mid2": 150, "big": 400, "big2": 400}
"""Model name to number of layers; each name is a blob of its own."""

ALIASES = {"tiny-alias": "tiny"}
"""A second name of the same blob."""

START_SECONDS = 30.0
"""It answers in under 2 s on an idle machine."""


class RealOllama:
    """A running server. Enter it to start it; leaving ends the server and all of its runners.

    Args:
        installation: what `install_with_models()` returned.
        launcher: who starts it: `launch`, a cgroup's or a small host's `popen`.
        models: OLLAMA_MODELS, else the shared shelf (which tests only read).
        port: where it listens on 127.0.0.1, else a free one.
        env: further environment, or other values than the defaults below.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        launcher: Launcher = launch,
        models: Path | None = None,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.installation = installation
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.models = models or installation.models
        self._launcher = launcher
        self._home = tempfile.TemporaryDirectory(prefix="real-ollama-")
        self.log = Path(self._home.name) / "ollama.log"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": self._home.name,
            "LD_LIBRARY_PATH": str(installation.libraries),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models),
            "OLLAMA_NOPRUNE": "1",  # several servers share the shelf
            "OLLAMA_NUM_PARALLEL": "1",  # else 1 or 4, after the memory that it finds free
            "OLLAMA_MAX_LOADED_MODELS": "9",  # else 3 on a CPU, and it would do the guard's work
            "OLLAMA_KEEP_ALIVE": "1h",  # no model leaves by itself during a test
            **(env or {}),
        }
        self._started: Started | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._home.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._home.cleanup()

    @property
    def pid(self) -> int:
        """The server's PID, as this machine numbers it."""
        assert self._started is not None
        return self._started.pid

    @property
    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._started is not None and self._started.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; usable again after `stop`.

        Raises:
            BedUnavailable: it ended or stayed silent for `START_SECONDS`.
        """
        with self.log.open("ab") as log:
            self._started = self._launcher(
                [str(self.installation.program), "serve"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while self.alive and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.get("/api/version", timeout=1.0)
                return
            time.sleep(0.05)
        self.stop()
        tail = self.log.read_text(errors="replace")[-500:]
        raise BedUnavailable(f"the real Ollama didn't answer within {START_SECONDS:.0f} s: {tail}")

    def stop(self) -> None:
        """End the server, and whatever runner it leaves behind."""
        if self._started is None:
            return
        runners = self.runners() if self.alive else {}
        self._started.stop()
        for pid, argv in ((pid, argv_of(pid)) for pid in runners.values()):
            if "runner" in argv:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._started = None

    def request(self, method: str, path: str, payload: object = None, timeout: float = 60.0) -> Any:
        """Any call; see `beds.http.request`."""
        return request(self.url, method, path, payload, timeout=timeout)

    def installed(self) -> list[str]:
        """The names (without `:latest`) of all models that it has on disk."""
        return [entry["name"].removesuffix(":latest") for entry in self.get("/api/tags")["models"]]

    def get(self, path: str, timeout: float = 10.0) -> Any:
        """GET `path`; see `beds.http.request`."""
        return request(self.url, "GET", path, timeout=timeout)

    def post(self, path: str, payload: object, timeout: float = 120.0) -> Any:
        """POST JSON; see `beds.http.request`."""
        return request(self.url, "POST", path, payload, timeout=timeout)

    def load(self, model: str, **options: Any) -> None:
        """Load `model` and return once it is there; `options` go into the request (keep_alive …)."""
        self.post("/api/generate", {"model": model, "stream": False} | options)

    def unload(self, model: str) -> None:
        """Ask for `model` to be unloaded; returns when the server has taken note, not when it is gone."""
        self.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})

    def loaded(self) -> dict[str, int]:
        """What `/api/ps` lists: name (without `:latest`) to its size in bytes."""
        return {
            entry["name"].removesuffix(":latest"): entry["size"] for entry in self.get("/api/ps")["models"]
        }

    def blob(self, model: str) -> Path:
        """The file of `model`'s weights."""
        shown = self.post("/api/show", {"model": model})["modelfile"]
        line = next(line for line in shown.splitlines() if line.startswith("FROM /"))
        return Path(line.removeprefix("FROM "))

    def runners(self) -> dict[Path, int]:
        """The runners that live now: blob to PID (as this machine numbers it)."""
        lines = ((pid, argv_of(pid)) for pid in children(self.pid))
        return {
            Path(argv[argv.index("--model") + 1]): pid
            for pid, argv in lines
            if "runner" in argv and "--model" in argv
        }

    def runner(self, model: str) -> int | None:
        """The PID of `model`'s runner, or None."""
        return self.runners().get(self.blob(model))

    def runner_rss_bytes(self, model: str) -> int:
        """Resident bytes of `model`'s runner, 0 when it has none."""
        pid = self.runner(model)
        return 0 if pid is None else rss_bytes(pid)

    def create(self, model: str, weights: Path) -> None:
        """Import a GGUF file under a name.

        It answers with one thread: two that wait for each other at every layer fall to a fifth of their
        speed as soon as anything else wants a core.
        """
        modelfile = Path(self._home.name) / f"Modelfile-{model}"
        modelfile.write_text(f"FROM {weights}\nPARAMETER num_thread 1\n")
        command = [str(self.installation.program), "create", model, "-f", str(modelfile)]
        subprocess.run(command, env=self.env, check=True, capture_output=True)


def install_with_models() -> Installation:
    """`install()` plus the shelf of models, made once a machine (about 40 s, 2.9 GB).

    Raises:
        BedUnavailable: it can't be installed or doesn't run here.
    """
    installation = install()
    with locked(installation.root.with_suffix(".lock")):
        if not _complete(installation).exists():
            _fill(installation)
            _complete(installation).touch()
    return installation


def is_prepared() -> bool:
    """Whether `install_with_models` has nothing left to make."""
    return _complete(located()).exists()


def _complete(installation: Installation) -> Path:
    """The mark of a shelf that has every model."""
    return installation.models / "complete"


def own_shelf(installation: Installation, target: Path, only: Container[str] = (*SHELF, *ALIASES)) -> Path:
    """Make `target` an OLLAMA_MODELS with the shelf, or `only` a part, that a test may change; returns it.

    The weights are hard links where the file system allows it, so this takes no time and no room; the
    manifests are copies, since Ollama rewrites them in place.
    """
    shutil.copytree(installation.models / "manifests", target / "manifests")
    for name in {*SHELF, *ALIASES}:
        if name not in only:
            shutil.rmtree(next((target / "manifests").glob(f"*/library/{name}")))
    (target / "blobs").mkdir()
    for blob in (installation.models / "blobs").iterdir():
        try:
            os.link(blob, target / "blobs" / blob.name)
        except OSError:
            shutil.copy2(blob, target / "blobs")
    return target


def _fill(installation: Installation) -> None:
    installation.models.mkdir(exist_ok=True)
    with RealOllama(installation) as server, tempfile.TemporaryDirectory(dir=installation.root) as aside:
        have = server.installed()
        for name, blocks in SHELF.items():
            if name not in have:
                weights = Path(aside) / f"{name}.gguf"
                grow_model(installation.seed, weights, blocks, name)
                server.create(name, weights)
                weights.unlink()
        for alias, name in ALIASES.items():
            server.post("/api/copy", {"source": name, "destination": alias})
