"""A real LiteLLM proxy."""

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from beds import BedUnavailable
from beds.http import free_port
from beds.litellm_install import LitellmInstallation
from beds.process import Started, launch

START_SECONDS = 180.0
"""It takes 8 s on an idle machine, most of it imports; beside other tests a multiple."""

MASTER_KEY = "sk-of-the-tests-0123456789abcdef0123456789"
SOURCES = Path(__file__).parents[2] / "src"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the proxy; header names are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: float

    @property
    def text(self) -> str:
        """What the model said."""
        return str(self.body["choices"][0]["message"]["content"])

    @property
    def served_by(self) -> str:
        """The model that the guard's callback names; "" where it had no say."""
        return self.headers.get("x-ollama-guard-model", "")


class LitellmProxy:
    """The proxy with a configuration; ``status`` is where its callback asks the guard.

    Our sources are on its path, but nothing that they depend on is installed there.
    """

    def __init__(
        self,
        installation: LitellmInstallation,
        config: str,
        folder: Path,
        status: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._program = installation.program
        self._config = folder / f"litellm-{free_port()}.yaml"
        self._config.write_text(config, encoding="utf-8")
        self._log = self._config.with_suffix(".log")
        self._status = status or folder / "no-guard.sock"
        self._env = env or {}
        self.port = free_port()
        self._started: Started | None = None

    def __enter__(self) -> Self:
        # HOME: it keeps nothing of ours. The price list it would fetch, and what it tells home, stay out.
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self._config.parent), "PYTHONPATH": str(SOURCES),
            "LITELLM_MASTER_KEY": MASTER_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OLLAMA_GUARD_STATUS": str(self._status), "NO_PROXY": "*",
            **self._env,
        }  # fmt: skip
        argv = [str(self._program), f"--config={self._config}", "--host=127.0.0.1", f"--port={self.port}"]
        with self._log.open("wb") as log:
            self._started = launch(
                [*argv, "--telemetry=False"], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._started.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise BedUnavailable(f"the LiteLLM proxy did not start:\n{self.log()[-3000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._started is not None:
            self._started.stop()

    @property
    def pid(self) -> int:
        """Its PID."""
        assert self._started is not None
        return self._started.pid

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def chat(self, model: str, *, key: str = MASTER_KEY, timeout: float = 60.0, **more: Any) -> Answer:
        """One question, as OpenAI's clients ask it."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]} | more
        return self.post("/v1/chat/completions", body, key=key, timeout=timeout)

    def post(self, path: str, body: object, *, key: str = MASTER_KEY, timeout: float = 60.0) -> Answer:
        """POST JSON.

        Raises:
            OSError: no answer within ``timeout`` seconds.
        """
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        seconds = time.monotonic() - begun
        told = {name.lower(): value for name, value in response.getheaders()}
        with contextlib.suppress(ValueError):
            return Answer(response.status, told, json.loads(content), seconds)
        return Answer(response.status, told, content.decode(errors="replace"), seconds)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health/readiness")
            response = connection.getresponse()
            response.read()
            return response.status == http.client.OK
        return False


@dataclass(slots=True)
class Tally:
    """What a client that asks again and again was answered: (seconds since the start, answer)."""

    answers: list[tuple[float, Answer]] = field(default_factory=list)

    def within(self, begin: float, end: float) -> list[Answer]:
        """The answers to what was asked and answered in that time."""
        return [answer for at, answer in self.answers if begin <= at and at + answer.seconds < end]
