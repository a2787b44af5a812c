"""One request that waits for a load, and the watch over that load."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ollama_guard.testing.fake import client
from ollama_guard.testing.fake.handle import Options, Runner
from ollama_guard.testing.fake.http import ApiError
from ollama_guard.testing.fake.spec import Settings
from ollama_guard.testing.fake.store import Manifest

_HEALTH_SECONDS = 0.02  # between two looks at a loading runner


class Pending:
    """One request that waits for a load."""

    def __init__(self, manifest: Manifest, options: Options, keep_alive: float | None) -> None:
        self.manifest, self.options, self.keep_alive = manifest, options, keep_alive
        self.result: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()

    def fail(self, error: ApiError) -> None:
        """Answer with an error, if anyone is still there."""
        if not self.result.done():
            self.result.set_exception(error)


async def wait_until_loaded(settings: Settings, pending: Pending, runner: Runner, captured: str) -> None:
    """Until the runner's health says ok; ApiError when it dies or the client leaves before (facts 1.8)."""
    name = "llama-server" if settings.new else "llama runner"
    while not await first(client.healthy(runner.port), runner.exited, pending.gone):
        if runner.exited.is_set():
            tail = f": {captured}" if captured else ""
            raise ApiError(500, f"{name} process has terminated: {runner.ending()}{tail}")
        if pending.gone.is_set():
            raise ApiError(499, "request canceled")
        await first(asyncio.sleep(_HEALTH_SECONDS), runner.exited, pending.gone)


async def first(work: Coroutine[Any, Any, Any], *events: asyncio.Event) -> object:
    """What ``work`` returns; None as soon as one of the events happens before."""
    tasks = [asyncio.ensure_future(work), *(asyncio.ensure_future(event.wait()) for event in events)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
