"""Ollama's scheduler (facts 2): one load at a time, runners keyed by blob, eviction, expiry.

Two tasks as in Ollama: one loads what waits, one at a time; the other unloads what expired.
``lock`` is its loadedMu: held while a runner is torn down, and wanted by ``/api/ps`` of the newer
dialect, which therefore blocks meanwhile (facts 1.3).
"""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

from ollama_guard.testing.fake import client
from ollama_guard.testing.fake.durations import MAX_INT64_SECONDS
from ollama_guard.testing.fake.faults import Faults, Kind
from ollama_guard.testing.fake.handle import Options, Runner
from ollama_guard.testing.fake.http import ApiError
from ollama_guard.testing.fake.loading import Pending, wait_until_loaded
from ollama_guard.testing.fake.memory import available_bytes, human
from ollama_guard.testing.fake.spec import Settings, shape
from ollama_guard.testing.fake.store import Manifest, Store

_PING_LIMIT_SECONDS = 10.0  # a runner that does not answer for so long is replaced (facts 2.2)
_RETRY_SECONDS = 0.01  # before a runner that expired while in use is looked at again
_OOM_TEXTS = (
    "out of memory",
    "failed to allocate",
    "allocation failed",
    "not enough memory",
    "insufficient memory",
)


class Scheduler:
    """Who is loaded, who waits, who goes."""

    def __init__(
        self, store: Store, settings: Settings, faults: Faults, prefix: Path, ledger: Path | None
    ) -> None:
        self._store, self._settings, self._faults = store, settings, faults
        self._prefix, self._ledger = prefix, ledger
        self.loaded: dict[str, Runner] = {}
        self.loading: Runner | None = None
        self.lock = asyncio.Lock()
        self._waiting: asyncio.Queue[Pending] = asyncio.Queue()
        self._expired: asyncio.Queue[Runner] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to schedule."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._load_pending()), loop.create_task(self._unload_expired())]

    @property
    def waiting(self) -> int:
        """How many requests wait for a load behind the one that loads."""
        return self._waiting.qsize()

    def runners(self) -> list[Runner]:
        """All runner processes, the loading one included."""
        loading = (
            [self.loading] if self.loading is not None and self.loading not in self.loaded.values() else []
        )
        return [*self.loaded.values(), *loading]

    async def get(self, manifest: Manifest, sent: dict[str, object], keep_alive: float | None) -> Runner:
        """The runner for a request, counted as used; `release` must follow. ApiError when there is none."""
        options = Options.of(sent, manifest, self._store.model(manifest.blob), self._settings)
        async with self.lock:
            runner = self.loaded.get(manifest.blob)
        if runner is not None and not runner.loading and not await self._needs_reload(runner, options):
            self._use(runner, keep_alive)
            return runner
        if self.waiting >= self._settings.max_queue:
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        pending = Pending(manifest, options, keep_alive)
        self._waiting.put_nowait(pending)
        try:
            return await asyncio.shield(pending.result)
        except asyncio.CancelledError:
            pending.gone.set()
            if pending.result.done() and pending.result.exception() is None:
                self.release(pending.result.result())
            raise

    def release(self, runner: Runner) -> None:
        """A request has ended (facts 1.4: only here is ``expires_at`` written)."""
        runner.references -= 1
        if runner.references > 0 or self.loaded.get(runner.blob) is not runner:
            return
        if runner.session_seconds <= 0:
            self._expire(runner)
            return
        runner.expires_at = time.time() + min(runner.session_seconds, MAX_INT64_SECONDS)
        if math.isfinite(runner.session_seconds):
            runner.timer = asyncio.get_running_loop().call_later(runner.session_seconds, self._expire, runner)

    async def expire(self, blob: str) -> None:
        """An API unload: at once when idle, when its last request ends when busy (facts 1.5)."""
        if self._faults.active(Kind.IGNORE_UNLOAD):
            return
        async with self.lock:
            runner = self.loaded.get(blob)
            if runner is None:
                return
            async with runner.lock:
                runner.expires_at = time.time()
                runner.session_seconds = 0.0
                if runner.references <= 0:
                    self._expire(runner)

    def _use(self, runner: Runner, keep_alive: float | None) -> None:
        runner.references += 1
        _stop_timer(runner)
        if keep_alive is not None:
            runner.session_seconds = keep_alive

    def _expire(self, runner: Runner) -> None:
        _stop_timer(runner)
        self._expired.put_nowait(runner)

    async def _needs_reload(self, runner: Runner, options: Options) -> bool:
        if runner.options != options:
            return True
        async with runner.lock:
            try:
                return not await asyncio.wait_for(client.healthy(runner.port), _PING_LIMIT_SECONDS)
            except TimeoutError:
                return True

    async def _evict(self, runner: Runner) -> None:
        """Unload when idle and wait until it is gone; ``expires_at`` stays as it was (facts 1.4)."""
        runner.session_seconds = 0.0
        if runner.references <= 0:
            self._expire(runner)
        await runner.unloaded.wait()

    def _to_unload(self) -> Runner:
        """The first idle one by session duration, then blob; else the shortest (facts 2.3)."""
        order = sorted(self.loaded.values(), key=lambda runner: (runner.session_seconds, runner.blob))
        return next((runner for runner in order if runner.references <= 0), order[0])

    async def _load_pending(self) -> None:
        while True:
            pending = await self._waiting.get()
            try:
                await self._make_room_and_load(pending)
            except ApiError as error:
                pending.fail(error)

    async def _make_room_and_load(self, pending: Pending) -> None:
        while not pending.gone.is_set():
            runner = self.loaded.get(pending.manifest.blob)
            if runner is not None and await self._needs_reload(runner, pending.options):
                await self._evict(runner)
            elif runner is not None:
                self._hand_over(pending, runner)
                return
            elif len(self.loaded) >= self._settings.max_loaded or self._short_of_memory(pending):
                await self._evict(self._to_unload())
            else:
                await self._load_with_retry(pending)
                return

    def _hand_over(self, pending: Pending, runner: Runner) -> None:
        self._use(runner, pending.keep_alive)
        if pending.gone.is_set():
            self.release(runner)
        else:
            pending.result.set_result(runner)

    def _short_of_memory(self, pending: Pending) -> bool:
        """The older dialect evicts first when the model does not fit beside the loaded ones (facts 9)."""
        return (
            not self._settings.new and bool(self.loaded) and self._planned_bytes(pending) > available_bytes()
        )

    def _planned_bytes(self, pending: Pending) -> int:
        model = self._store.model(pending.manifest.blob)
        context = pending.options.context * self._settings.parallel
        return model.size_bytes + shape(model).kv_bytes_per_token * context

    async def _load_with_retry(self, pending: Pending) -> None:
        """After a failure that speaks of memory: evict all others and try once more (facts 2.4)."""
        planned, available = self._planned_bytes(pending), available_bytes()
        if not self._settings.new and planned > available:
            text = (
                f"model requires more system memory ({human(planned)}) than is available ({human(available)})"
            )
            raise ApiError(500, text)
        try:
            await self._load(pending)
        except ApiError as error:
            if not self._settings.new or not any(text in str(error) for text in _OOM_TEXTS):
                raise
            for runner in list(self.loaded.values()):
                await self._evict(runner)
            await self._load(pending)

    async def _load(self, pending: Pending) -> None:
        model = self._store.model(pending.manifest.blob)
        session = self._settings.keep_alive_seconds if pending.keep_alive is None else pending.keep_alive
        runner = Runner(model, pending.manifest, pending.options, session)
        failure = self._faults.take(Kind.LOAD_FAILURE, model.name)
        async with self.lock:
            runner.start(
                self._settings,
                self._store.blob_path(runner.blob),
                self._prefix,
                self._ledger,
                int(failure.options.get("status", 1)) if failure else 0,
            )
            self.loading = runner
            if not self._settings.new:
                self.loaded[runner.blob] = runner  # so /api/ps lists it while it loads (facts 9)
        try:
            async with runner.lock:
                await wait_until_loaded(
                    self._settings, pending, runner, str(failure.options.get("text", "")) if failure else ""
                )
                runner.loading = False
                self.loaded[runner.blob] = runner
                self._hand_over(pending, runner)
        finally:
            self.loading = None
            if runner.loading:
                await runner.close()
                self.loaded.pop(runner.blob, None)

    async def _unload_expired(self) -> None:
        while True:
            runner = await self._expired.get()
            async with self.lock:
                if self.loaded.get(runner.blob) is not runner:
                    continue
                if runner.references > 0:
                    asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._expired.put_nowait, runner)
                    continue
                await self._faults.pause(Kind.SLOW_TEARDOWN)
                await runner.close()
                await self._faults.pause(Kind.BLOCK_PS_ON_UNLOAD)
                del self.loaded[runner.blob]
                runner.unloaded.set()

    async def close(self) -> None:
        """Stop scheduling and kill every runner (facts 2.7)."""
        for task in self._tasks:
            task.cancel()
        for runner in self.runners():
            await runner.close()


def _stop_timer(runner: Runner) -> None:
    if runner.timer is not None:
        runner.timer.cancel()
        runner.timer = None
