"""The real Ollama in a container of Bed 2: same files, same API, another owner."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from beds import BedUnavailable
from beds.docker import Container, DockerEngine
from beds.ollama_install import Installation
from beds.real_ollama import START_SECONDS, RealOllama


class ContainerOllama(RealOllama):
    """A running container with a server in it; enter it to start it. `DockerEngine.clear` ends it too.

    Args:
        engine: whose container it will be.
        installation: what `install_with_models()` returned.
        name: the container's.
        container: further options of `DockerEngine.run` (restart, labels, mem_limit, entrypoint, binds …).
        options: those of `RealOllama` (models, port, env).
    """

    def __init__(
        self,
        engine: DockerEngine,
        installation: Installation,
        *,
        name: str = "ollama",
        container: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(installation, **options)
        self._engine = engine
        self._name = name
        self._options = dict(container or {})
        self.container: Container | None = None

    @property
    def pid(self) -> int:
        """The server's PID, as this machine numbers it; 0 while it is stopped."""
        assert self.container is not None
        return self.container.pid

    @property
    def alive(self) -> bool:
        """Whether the container runs."""
        return self.container is not None and bool(self.container.state["Running"])

    def start(self) -> None:
        """Make the container and wait until the server in it answers.

        Raises:
            BedUnavailable: it ended or stayed silent for `START_SECONDS`.
        """
        home = self.env["HOME"]
        options = dict(self._options)
        binds = [f"{self.installation.root}:{self.installation.root}:ro", f"{home}:{home}"]
        if not self.models.is_relative_to(self.installation.root):
            binds.append(f"{self.models}:{self.models}")
        # OLLAMA_GUARD_EXEC is what the guard's entrypoint becomes.
        env = self.env | {"OLLAMA_GUARD_EXEC": str(self.installation.program)}
        environment = [f"{key}={value}" for key, value in env.items()]
        self.container = self._engine.run(
            [*([] if "entrypoint" in options else [str(self.installation.program)]), "serve"],
            name=self._name,
            binds=[*binds, *options.pop("binds", [])],
            environment=[*environment, *options.pop("environment", [])],
            **options,
        )
        self.wait_answering(START_SECONDS)

    def wait_answering(self, seconds: float) -> None:
        """Wait until it answers, also after somebody else has started it again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.get("/api/version", timeout=1.0)
                return
            time.sleep(0.05)
        raise BedUnavailable(f"the Ollama in the container {self._name} didn't answer within {seconds:.0f} s")

    def stop(self) -> None:
        """Take the container away; safe to call twice, and when the engine did."""
        if self.container is not None:
            self._engine.remove(self.container)
            self.container = None
