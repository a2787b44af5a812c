"""The real Ollama as a service of a compose project, which `docker-compose` made and keeps owning."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from beds.docker import BINDS, IMAGE, Container, DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.ollama_install import Installation
from beds.packages import require_program
from beds.real_ollama import START_SECONDS

_COMPOSE_SECONDS = 120.0


class ComposeOllama(ContainerOllama):
    """A running project with one service `ollama`.

    Args:
        engine: whose container it will be.
        installation: what `install_with_models()` returned.
        folder: where the project's file will be.
        models: OLLAMA_MODELS.
    """

    def __init__(
        self, engine: DockerEngine, installation: Installation, *, folder: Path, models: Path
    ) -> None:
        super().__init__(engine, installation, name="compose-ollama", models=models)
        self._program = require_program("docker-compose", "docker-compose")
        self._file = folder / "docker-compose.yml"

    def start(self) -> None:
        """Write the project's file, make the container by `up`, and wait until the server in it answers."""
        home = self.env["HOME"]
        service = {
            "image": IMAGE,
            "container_name": self._name,
            "command": [str(self.installation.program), "serve"],
            "environment": self.env,
            "network_mode": "host",
            "restart": "always",
            "volumes": [
                *BINDS,
                f"{self.installation.root}:{self.installation.root}:ro",
                f"{self.models}:{self.models}",
                f"{home}:{home}",
            ],
        }
        # JSON is YAML.
        self._file.write_text(json.dumps({"version": "3.7", "services": {"ollama": service}}))
        self.compose("up", "-d")
        self.container = Container(self._engine, self.compose("ps", "-q").strip(), self._name)
        self.wait_answering(START_SECONDS)

    def compose(self, *arguments: str) -> str:
        """Run docker-compose on the project; what it said, errors and news included."""
        done = subprocess.run(
            [self._program, "-f", str(self._file), *arguments],
            env={"PATH": os.environ["PATH"], "DOCKER_HOST": self._engine.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMPOSE_SECONDS,
            check=True,
        )
        return done.stdout
