"""The fake's server process: the API, the control port, signals, the end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_guard.testing.fake import client
from ollama_guard.testing.fake.api import Api
from ollama_guard.testing.fake.disguise import disguise
from ollama_guard.testing.fake.faults import Fault, Faults, Kind, wait_for_event
from ollama_guard.testing.fake.handle import Runner
from ollama_guard.testing.fake.http import ApiError, Request, Response, json_response, serve
from ollama_guard.testing.fake.scheduler import Scheduler
from ollama_guard.testing.fake.spec import Settings
from ollama_guard.testing.fake.store import Store


@dataclass(frozen=True, slots=True)
class Place:
    """Where the fake lives. ``leash``: a descriptor at whose end of file the server stops by itself."""

    host: str
    port: int
    control_port: int
    models_dir: Path
    prefix: Path
    ledger: Path | None = None
    ready_fd: int | None = None
    leash_fd: int | None = None
    start_delay_seconds: float = 0.0


class Server:
    """One fake Ollama."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self._place, self._settings = place, settings
        self._faults = Faults()
        self._store = Store(place.models_dir, settings)
        self._scheduler = Scheduler(self._store, settings, self._faults, place.prefix, place.ledger)
        loopback = ipaddress.ip_address(place.host).is_loopback
        self._api = Api(self._store, self._scheduler, settings, self._faults, loopback=loopback)
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then kill the runners and return (facts 2.7)."""
        disguise((f"{self._place.prefix}/bin/ollama", "serve"), "ollama")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if self._place.leash_fd is not None:
            loop.add_reader(self._place.leash_fd, self._stop.set)
        api = await serve(self._handle, host=self._place.host, port=self._place.port)
        control = await serve(self._control, host="127.0.0.1", port=self._place.control_port)
        self._scheduler.start()
        self._announce(api.sockets[0].getsockname()[1], control.sockets[0].getsockname()[1])
        await wait_for_event(self._stop, self._place.start_delay_seconds)
        self._ready.set()
        await self._stop.wait()
        await self._scheduler.close()
        sys.stderr.flush()
        os._exit(0)  # in-flight answers are cut, as http.Server.Close does

    def _announce(self, port: int, control_port: int) -> None:
        sys.stderr.write(
            f'level=INFO source=routes.go:2008 msg="Listening on {self._place.host}:{port} '
            f'(version {self._settings.version})"\nfake: control port {control_port}\n'
        )
        sys.stderr.flush()
        if self._place.ready_fd is not None:
            os.write(self._place.ready_fd, json.dumps({"port": port, "control_port": control_port}).encode())
            os.close(self._place.ready_fd)

    async def _handle(self, request: Request) -> Response:
        await self._ready.wait()  # the socket listens before anything is served (facts 1.1)
        return await self._api.handle(request)

    async def _control(self, request: Request) -> Response:
        match request.method, request.path:
            case "GET", "/state":
                return json_response(self._state())
            case "POST", "/fault":
                return json_response(await self._set_fault(request.json()))
            case "DELETE", "/fault":
                self._faults.clear()
                return json_response({})
        raise ApiError(404, "no such control")

    def _state(self) -> dict[str, Any]:
        runners = [
            {
                "model": runner.manifest.name,
                "blob": runner.blob,
                "pid": runner.pid,
                "port": runner.port,
                "loading": runner.loading,
                "references": runner.references,
                "alive": runner.status is None,
                "memory_bytes": runner.size_bytes,
            }
            for runner in self._scheduler.runners()
        ]
        return {
            "pid": os.getpid(),
            "runners": runners,
            "waiting": self._scheduler.waiting,
            "blobs": {manifest.name: manifest.blob for manifest in self._store.manifests()},
            "outbound_calls": self._api.generator.outbound_calls,
        }

    async def _set_fault(self, sent: dict[str, Any]) -> dict[str, Any]:
        try:
            kind = Kind(sent.pop("kind", ""))
        except ValueError as error:
            raise ApiError(400, f"unknown kind; allowed: {', '.join(Kind)}") from error
        seconds = sent.pop("seconds", None)
        fault = Fault(kind, sent.pop("path", None), None if seconds is None else float(seconds), sent)
        match kind:
            case Kind.CRASH_SERVER:
                os.kill(os.getpid(), signal.SIGKILL)
            case Kind.CRASH_RUNNER:
                self._runner(sent).send(int(sent.get("signal", signal.SIGKILL)))
            case Kind.GROW:
                await _drain(
                    client.ask(self._runner(sent).port, "POST", "/grow", sent | {"seconds": seconds or 0})
                )
            case _:
                self._faults.add(fault)
        if kind is Kind.BLOCK_PS:
            await self._hold_lock(fault)
        return {}

    async def _hold_lock(self, fault: Fault) -> None:
        """Hold the scheduler's lock in the background for as long as the fault lasts."""
        await self._scheduler.lock.acquire()

        async def release() -> None:
            await fault.over.wait()
            self._scheduler.lock.release()

        self._holder = asyncio.get_running_loop().create_task(release())

    def _runner(self, sent: dict[str, Any]) -> Runner:
        wanted = self._store.find(str(sent.get("model", "")))
        for runner in self._scheduler.runners():
            if wanted is not None and runner.blob == wanted.blob:
                return runner
        raise ApiError(404, "no runner of that model")


async def _drain(lines: AsyncIterator[bytes]) -> None:
    async for _ in lines:
        pass
