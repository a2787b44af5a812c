"""The runner: a real child process that takes real memory, burns real CPU and answers on its own port.

It is forked, not executed, from the single-threaded server, and takes on the command line of the
dialect at once. Like Ollama's runners it has no parent-death signal: it outlives a killed server.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.testing.fake import ledger
from ollama_guard.testing.fake.disguise import disguise
from ollama_guard.testing.fake.http import Request, Response, json_response, serve

_STEP_SECONDS = 0.005  # between two portions of memory: smooth even when a load lasts 50 ms
_PORTION_BYTES = 4 * 1024 * 1024  # the most touched in one go, so that one page fault storm stays short
_AREA_BYTES = 64 * 1024 * 1024  # mapped at once: one map of a model larger than memory would be refused
_BURN_BLOCK = bytes(256 * 1024)  # hashed without the interpreter lock, well under a millisecond
_WORDS = ("the ", "model ", "says ", "many ", "words ", "and ", "means ", "none. ")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one runner is to be; bytes and seconds. ``failure``: die at start with this status and text."""

    argv: tuple[str, ...]
    comm: str
    new: bool
    memory_bytes: int
    load_seconds: float
    parallel: int
    tokens_per_second: float
    cpu_share: float
    cache_bytes: int
    cache_limit_bytes: int
    ledger: Path | None
    failure: int = 0


def spawn(plan: Plan, listener: socket.socket) -> int:
    """Fork the runner, which serves on ``listener``; returns its PID. The caller must be single-threaded."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(plan, listener)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _child(plan: Plan, listener: socket.socket) -> None:
    status = 1
    try:
        gc.freeze()  # the parent's sockets must not be collected, and so closed, in here
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        disguise(plan.argv, plan.comm)
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208 - the descriptors' numbers
            if fd > 2 and fd != listener.fileno():
                _close(fd)
        if plan.ledger is not None:
            ledger.record(plan.ledger)
        if plan.failure:
            os._exit(plan.failure)
        asyncio.run(_Runner(plan).serve(listener))
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the server's stack
        sys.stderr.write(f"runner: {error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(status)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # the listing's own descriptor


class _Runner:
    """Memory, CPU and the HTTP port of one runner process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._held: list[mmap.mmap] = []
        self._address = 0  # of the newest area
        self._left = 0  # bytes of it that are not touched yet
        self._taking = threading.Lock()
        self._cache_bytes = 0
        self._loaded = False
        self._slots = [False] * plan.parallel
        self._working = threading.Event()

    async def serve(self, listener: socket.socket) -> None:
        server = await serve(self._handle, sock=listener)
        threading.Thread(target=self._load, daemon=True).start()
        threading.Thread(target=self._burn, daemon=True).start()
        await server.serve_forever()

    def _load(self) -> None:
        try:
            self._take(self._plan.memory_bytes, self._plan.load_seconds)
        except OSError as error:
            sys.stderr.write(f"ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate: {error}\n")
            os._exit(1)
        self._loaded = True

    def _take(self, size: int, seconds: float) -> None:
        """Take anonymous memory and touch every page of it, evenly over ``seconds``."""
        with self._taking:
            self._take_in_turn(size, seconds)

    def _take_in_turn(self, size: int, seconds: float) -> None:
        started, touched = time.monotonic(), 0
        while touched < size:
            elapsed = time.monotonic() - started
            goal = size if elapsed >= seconds else int(size * elapsed / seconds)
            while touched < goal:
                touched += self._touch(goal - touched)
            if touched < size:
                time.sleep(_STEP_SECONDS)

    def _touch(self, most: int) -> int:
        """Touch up to ``most`` bytes of the newest area, or of another one; returns how many."""
        if self._left == 0:
            area = mmap.mmap(-1, _AREA_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._held.append(area)
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(area))
            self._left = _AREA_BYTES
        portion = min(_PORTION_BYTES, self._left, most)
        ctypes.memset(self._address + _AREA_BYTES - self._left, 1, portion)
        self._left -= portion
        return portion

    def _burn(self) -> None:
        """While a slot works, keep ``cpu_share`` of one core busy."""
        share = self._plan.cpu_share
        while True:
            self._working.wait()
            if share <= 0:
                time.sleep(1)
                continue
            started = time.thread_time()
            hashlib.sha256(_BURN_BLOCK)
            time.sleep((time.thread_time() - started) * (1 - share) / share)

    async def _handle(self, request: Request) -> Response:
        match request.method, request.path:
            case "GET", "/health":
                return self._health()
            case "GET", "/slots" if self._plan.new:
                return json_response([{"id": i, "is_processing": busy} for i, busy in enumerate(self._slots)])
            case "POST", "/completion":
                return Response(stream=self._complete(int(request.json()["n_predict"])))
            case "POST", "/grow":
                wanted = request.json()
                self._grow(int(wanted["bytes"]), float(wanted["seconds"]))
                return json_response({})
        return json_response(
            {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404
        )

    def _health(self) -> Response:
        if self._loaded:
            return json_response({"status": "ok"})
        if not self._plan.new:
            return json_response({"status": "loading model", "progress": 0.5})
        error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        return json_response({"error": error}, 503)

    async def _complete(self, count: int) -> AsyncIterator[bytes]:
        slot = self._slots.index(False) if False in self._slots else 0
        self._slots[slot] = True
        self._working.set()
        try:
            for index in range(count):
                await asyncio.sleep(1 / self._plan.tokens_per_second)
                yield _event({"content": _WORDS[index % len(_WORDS)], "stop": False})
            yield _event({"content": "", "stop": True})
        finally:
            self._slots[slot] = False
            if not any(self._slots):
                self._working.clear()
        self._grow(self._plan.cache_bytes, 0)

    def _grow(self, size: int, seconds: float) -> None:
        """Grow the prompt cache in the background, up to its limit (facts 3.3); it never shrinks."""
        size = max(0, min(size, self._plan.cache_limit_bytes - self._cache_bytes))
        self._cache_bytes += size
        if size:
            threading.Thread(target=self._take, args=(size, seconds), daemon=True).start()


def _event(value: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
