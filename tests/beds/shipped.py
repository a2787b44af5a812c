"""packaging/docker as it is shipped: its compose file, run by docker-compose on images built here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from beds.container_images import BASE, OLLAMA
from beds.docker import Container, DockerEngine
from beds.http import free_port, request
from beds.packages import require_program

REPOSITORY = Path(__file__).parents[2]
SHIPPED = "packaging/docker"
IMAGE = "ollama-guard:bed"
COMPOSE_SECONDS = 600.0
_PARTS = ("pyproject.toml", "README.md", "LICENSE", "requirements", "src", "packaging")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as Docker Compose reads it: `!override` replaces a list of the file before."""


_Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def read_compose(folder: Path, *, proxied: bool) -> dict[str, Any]:
    """The shipped file and the one for the proxy as one, without what docker-compose 1.29 can't read.

    That is `cgroup: host`, the default of every engine of this bed, and the project's name.
    """
    whole: dict[str, Any] = yaml.load((folder / "compose.yml").read_text(encoding="utf-8"), _Loader)  # noqa: S506
    if proxied:
        more = yaml.load((folder / "compose.socket-proxy.yml").read_text(encoding="utf-8"), _Loader)  # noqa: S506
        whole["services"]["guard"].update(more["services"].pop("guard"))
        whole["services"].update(more["services"])
        whole["volumes"].update(more["volumes"])
    assert whole.pop("name") == "ollama"
    assert whole["services"]["guard"].pop("cgroup") == "host"
    return whole


def checkout(folder: Path) -> Path:
    """A copy of what the guard's image is made of, whose files a test may change; returns it."""
    folder.mkdir()
    for name in _PARTS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    # An engine without BuildKit looks for it there alone.
    shutil.copy(folder / SHIPPED / "Dockerfile.dockerignore", folder / ".dockerignore")
    return folder


class ShippedProject:
    """A running project: Ollama, its guard, perhaps the proxy. Enter it for `up`; leaving is `down`.

    Args:
        engine: whose containers they will be.
        folder: a `checkout`.
        models: the folder for `/root/.ollama/models`.
        proxied: with compose.socket-proxy.yml.
        change: what the machine's owner would change in compose.yml, besides its numbers.
        config: further lines below `[ollama]` in the guard's configuration.
    """

    def __init__(
        self,
        engine: DockerEngine,
        folder: Path,
        *,
        models: Path,
        proxied: bool = False,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
        config: str = "",
    ) -> None:
        self._engine = engine
        self._folder = folder / SHIPPED
        self._program = require_program("docker-compose", "docker-compose")
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._file = self._folder / "docker-compose.json"
        file = read_compose(self._folder, proxied=proxied)
        ollama, guard = file["services"]["ollama"], file["services"]["guard"]
        ollama["ports"] = [port.replace(":11434:", f":{self._port}:") for port in ollama["ports"]]
        resources = ollama["deploy"]["resources"]
        resources["limits"]["memory"], resources["reservations"]["memory"] = "600M", "200M"
        file["volumes"]["models"] = {
            "driver_opts": {"type": "none", "o": "bind", "device": str(models.parent)}
        }
        guard["build"]["network"] = "host"
        guard.setdefault("environment", {})["OLLAMA_GUARD_LOG"] = "json"
        # Two guards with one folder exclude each other, and the machine's own may have a guard in it.
        shared, own = "/run/ollama-guard:/run/ollama-guard", f"{folder / 'run'}:/run/ollama-guard"
        assert shared in guard["volumes"]
        guard["volumes"] = [own if volume == shared else volume for volume in guard["volumes"]]
        change(file)
        self._file.write_text(json.dumps(file), encoding="utf-8")
        settings = self._folder / "config" / "ollama-guard.toml"
        ours = f'authority = "server"\ncgroup = "/{engine.cgroup}"\n{config}'
        settings.write_text(settings.read_text(encoding="utf-8").replace('#authority = "server"\n', ours))

    def build(self, index: str) -> str:
        """Make the guard's image with the shipped Dockerfile; what was said."""
        return self.compose("build", "--build-arg", f"PIP_INDEX_URL={index}", "guard")

    def __enter__(self) -> Self:
        try:
            self.compose("up", "-d", "--no-build")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.thaw()
        self.compose("down", "--volumes", "--timeout", "2")

    def compose(self, *arguments: str) -> str:
        """Run docker-compose on the project; what it said, errors and news included."""
        socket = self._engine.url.removeprefix("unix://")
        done = subprocess.run(
            [self._program, "-p", "shipped", "-f", str(self._file), *arguments],
            env={
                "PATH": os.environ["PATH"], "HOME": str(self._folder), "DOCKER_HOST": self._engine.url,
                "COMPOSE_HTTP_TIMEOUT": str(int(COMPOSE_SECONDS)), "COMPOSE_DOCKER_CLI_BUILD": "0",
                "OLLAMA_IMAGE": OLLAMA, "GUARD_IMAGE": IMAGE, "GUARD_BASE": BASE, "HAPROXY_IMAGE": BASE,
                "DOCKER_SOCKET": socket,
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMPOSE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def container(self, name: str) -> Container:
        """One of the project's containers, by the name that the file gives it."""
        with self._engine.api() as api:
            return Container(self._engine, api.inspect_container(name)["Id"], name)

    def run_in(self, name: str, *argv: str) -> tuple[int, str]:
        """A command in a container (`docker exec`): its exit code and all that it said."""
        with self._engine.api(60.0) as api:
            made = api.exec_create(name, list(argv))["Id"]
            said = api.exec_start(made).decode(errors="replace")
            return int(api.exec_inspect(made)["ExitCode"]), said

    def ask(self, method: str, path: str, payload: object = None, timeout: float = 60.0) -> Any:
        """A call of Ollama's API at the published port."""
        return request(self.url, method, path, payload, timeout=timeout)

    def answers(self) -> bool:
        """Whether Ollama answers now."""
        with contextlib.suppress(OSError):
            self.ask("GET", "/api/version", timeout=2.0)
            return True
        return False

    def events(self, name: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """What the guard has logged, as Docker kept it."""
        found = []
        for line in self.log().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if name in (None, event.get("event")) and all(event.get(k) == v for k, v in fields.items()):
                found.append(event)
        return found

    def log(self, name: str = "ollama-guard") -> str:
        """All that a container has said."""
        with self._engine.api() as api:
            return str(api.logs(name).decode(errors="replace"))

    def wait(self, check: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until `check()` holds, else fail with the end of the guard's log."""
        deadline = time.monotonic() + seconds
        while not check():
            tail = "\n".join(self.log().splitlines()[-40:])
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}\n{tail}"
            time.sleep(0.2)

    def wait_event(self, name: str, seconds: float, **fields: object) -> dict[str, Any]:
        """Wait for an event of the guard and return it."""
        self.wait(lambda: self.events(name, **fields), seconds, f"{name} {fields}")
        return self.events(name, **fields)[-1]
