"""One face for both servers that the behaviour tests run on: the real one and the fake."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.real_ollama import RealOllama, install_with_models


class Server(Protocol):
    """What the stories need of a server; names are without ``:latest``."""

    @property
    def url(self) -> str:
        """Where its API is."""

    @property
    def port(self) -> int:
        """The port of its API."""

    @property
    def pid(self) -> int:
        """The server's PID."""

    def start(self) -> object:
        """Start it (again), waiting until it answers."""

    def stop(self) -> object:
        """End it and its runners."""

    def load(self, model: str, **options: Any) -> None:
        """Load a model and return once it is there."""

    def get(self, path: str, timeout: float = 10.0) -> Any:
        """GET a path."""

    def blob(self, model: str) -> Path:
        """The file of a model's weights."""

    def runner_pids(self) -> dict[str, int]:
        """Model name to the PID of its runner, from the process list."""


class RealServer(RealOllama):
    """The real one, with the map from runners to names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names: dict[Path, str] = {}

    def runner_pids(self) -> dict[str, int]:
        """Model name to the PID of its runner, from the process list."""
        runners = self.runners() if self.alive else {}
        return {self._name(blob): pid for blob, pid in runners.items()}

    def _name(self, blob: Path) -> str:
        if blob not in self._names:
            listed = [entry["name"].removesuffix(":latest") for entry in self.get("/api/tags")["models"]]
            # Shorter names last, so that an alias never hides the name that it is an alias of.
            self._names = {self.blob(name): name for name in sorted(listed, key=len, reverse=True)}
        return self._names[blob]


@contextlib.contextmanager
def start_server(kind: str, cgroup: MemoryCgroup) -> Iterator[Server]:
    """A server inside a cgroup; ``kind`` is ``real`` or ``fake``."""
    if kind == "fake":
        with FakeServer(cgroup.join_paths) as fake:
            yield fake
        return
    with RealServer(install_with_models(), launcher=cgroup.popen) as real:
        real.runner_pids()
        yield real
