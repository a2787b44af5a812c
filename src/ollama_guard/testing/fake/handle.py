"""What the server knows of one runner process: its options, who uses it, when it expires."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.testing.fake import client
from ollama_guard.testing.fake.durations import MAX_INT64_SECONDS
from ollama_guard.testing.fake.http import ApiError
from ollama_guard.testing.fake.runner import Plan, spawn
from ollama_guard.testing.fake.spec import MIB, FakeModel, Settings, shape
from ollama_guard.testing.fake.store import Manifest

_CACHE_LIMIT_MIB = 8192  # llama.cpp's default prompt cache limit per runner (facts 3.3)
_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_RUNNER_OPTIONS = (
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
)  # a change reloads (facts 2.2)


@dataclass(frozen=True, slots=True)
class Options:
    """What a request wants of its runner; another value means a reload. ``context`` is per slot."""

    context: int
    others: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, sent: dict[str, object], manifest: Manifest, model: FakeModel, settings: Settings) -> Options:
        """From a request's ``options``, over the Modelfile's, over the server's default (facts 1.7, 2.5)."""
        wanted = sent.get("num_ctx") or manifest.params.get("num_ctx") or settings.context
        if not isinstance(wanted, int):
            raise ApiError(400, 'option "num_ctx" must be of type integer')
        others = tuple((name, repr(sent[name])) for name in _RUNNER_OPTIONS if name in sent)
        return cls(min(wanted, model.context), others)


class Runner:
    """One child process. ``session_seconds`` is the sticky keep-alive (facts 1.6)."""

    def __init__(
        self, model: FakeModel, manifest: Manifest, options: Options, session_seconds: float
    ) -> None:
        self.model, self.manifest, self.options = model, manifest, options
        self.session_seconds = session_seconds
        self.references = 0
        self.loading = True
        self.expires_at: float | None = None  # epoch seconds; None until the first request has ended
        self.timer: asyncio.TimerHandle | None = None
        self.lock = asyncio.Lock()  # Ollama's refMu
        self.unloaded = asyncio.Event()
        self.exited = asyncio.Event()
        self.status: int | None = None
        self.pid = 0
        self.port = 0
        self._slots: asyncio.Semaphore
        self._new = True

    @property
    def blob(self) -> str:
        """The key: names are aliases of it (facts 2.2)."""
        return self.manifest.blob

    @property
    def size_bytes(self) -> int:
        """What ``/api/ps`` says: weights and KV of all slots, fixed at the load."""
        return self._size

    def start(
        self, settings: Settings, blob_path: Path, prefix: Path, ledger: Path | None, failure: int
    ) -> None:
        """Fork the process; it takes its memory from now on."""
        parallel = 1 if "embedding" in self.model.capabilities else settings.parallel
        context = self.options.context * parallel
        self._size = self.model.size_bytes + shape(self.model).kv_bytes_per_token * context
        self._slots = asyncio.Semaphore(parallel)
        self._new = settings.new
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            argv = _new_argv if settings.new else _old_argv
            cache = settings.environment.get("LLAMA_ARG_CACHE_RAM", "") if settings.new else "0"
            plan = Plan(
                argv=argv(prefix, blob_path, self.port, context, parallel),
                comm="llama-server" if settings.new else "ollama",
                new=settings.new,
                memory_bytes=self._size,
                load_seconds=self.model.seconds_to_load(self._size),
                parallel=parallel,
                tokens_per_second=self.model.tokens_per_second,
                cpu_share=self.model.cpu_share,
                cache_bytes=self.model.cache_bytes,
                cache_limit_bytes=int(cache or _CACHE_LIMIT_MIB) * MIB,
                ledger=ledger,
                failure=failure,
            )
            self.pid = spawn(plan, listener)
        pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._reap, pidfd)

    def _reap(self, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.exited.set()

    def send(self, number: int) -> None:
        """Send a signal; nothing happens when the process has been reaped."""
        if self.status is None:
            os.kill(self.pid, number)

    async def close(self) -> None:
        """SIGKILL, then wait until it is reaped."""
        self.send(signal.SIGKILL)
        await self.exited.wait()

    def ending(self) -> str:
        """How it ended, in Go's words."""
        if self.status is None or self.status >= 0:
            return f"exit status {self.status}"
        text = signal.strsignal(-self.status) or f"signal {-self.status}"
        return f"signal: {text.lower()}"

    def shown_expiry(self) -> float:
        """``expires_at`` in epoch seconds as ``/api/ps`` shows it (facts 1.4)."""
        return (
            self.expires_at
            if self.expires_at is not None
            else time.time() + min(self.session_seconds, MAX_INT64_SECONDS)
        )

    async def complete(self, count: int) -> AsyncIterator[str]:
        """The pieces of an answer; ApiError in the words of facts 1.8 when the runner dies."""
        async with self._slots:
            if self.status is not None:
                name = "llama-server" if self._new else "llama runner"
                raise ApiError(500, f"{name} process no longer running: unknown")
            begun = False
            try:
                lines = client.ask(self.port, "POST", "/completion", {"n_predict": count})
                async for line in lines:
                    if not line.startswith(b"data: "):
                        continue
                    event = json.loads(line.removeprefix(b"data: "))
                    if event["stop"]:
                        return
                    begun = True
                    yield event["content"]
            except OSError:
                pass  # as an early end of the answer, below
            if begun:
                raise ApiError(500, "an error was encountered while running the model: unexpected EOF")
            raise ApiError(500, _STOPPED)


def _new_argv(prefix: Path, blob: Path, port: int, context: int, parallel: int) -> tuple[str, ...]:
    """The command line of facts 4.1."""
    text = (
        f"--port {port} --host 127.0.0.1 --no-webui --offline -c {context} -np {parallel} --log-verbosity 4 "
        "--no-log-prefix --no-log-timestamps --load-mode none --flash-attn auto -b 512 -ub 512"
    )
    return (f"{prefix}/lib/ollama/llama-server", "--model", str(blob), *text.split())


def _old_argv(prefix: Path, blob: Path, port: int, context: int, parallel: int) -> tuple[str, ...]:
    """The command line of facts 9, with the flags of v0.5.4."""
    text = f"--ctx-size {context} --batch-size 512 --threads 2 --no-mmap --parallel {parallel} --port {port}"
    return (f"{prefix}/bin/ollama", "runner", "--model", str(blob), *text.split())
