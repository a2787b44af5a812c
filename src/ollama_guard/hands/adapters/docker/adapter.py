"""`RuntimePort` over Docker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard.core.machine import ContainerFacts
from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeReading, RuntimeState, Told, container_id_of
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import limits as limiting
from ollama_guard.hands.adapters.docker import readings
from ollama_guard.hands.adapters.docker.engine import Call, Engine
from ollama_guard.hands.adapters.docker.engines import Engines, as_told_by, key_of
from ollama_guard.hands.adapters.docker.facts import facts_of
from ollama_guard.hands.adapters.docker.mains import not_alone, place_in
from ollama_guard.hands.adapters.foreign import table, words
from ollama_guard.ports import LimitsBook

# Seconds between SIGTERM and SIGKILL: Ollama ends in 0.2 s, a frozen one not at all.
STOP_GRACE_SECONDS = 2
# Seconds kept back from a stop, to ask whether Docker hangs or only the container does not end.
ASK_AFTERWARDS_SECONDS = 1.0
# Containers that are asked for their namespaces in one look; what they join never changes, so once each.
INSPECT_LIMIT = 200
# Seconds of one round of listening, less than the minute after which proxies cut what is silent; those that
# a round lasts less when nothing is wrong, or more; and those for all that comes before its first word.
ROUND_SECONDS, EARLY_SECONDS, SLACK_SECONDS, OPENING_SECONDS = 50.0, 5.0, 10.0, 4.0


class DockerRuntime:
    """Every engine of this machine: the configured one, else DOCKER_HOST, else the usual sockets (`Engines`).

    Calls may come from several threads.
    """

    def __init__(self, docker_host: str, env_folder: Path, book: LimitsBook) -> None:
        self._engines = Engines(docker_host)
        self._env_folder = str(env_folder)
        self._book = book
        self._joins: dict[str, frozenset[str]] = {}
        self._not_alone: dict[str, str] = {}

    def find(self, server: ServerReading, deadline_seconds: float) -> RuntimeReading | None:
        """The container whose main process the server is: by its cgroup's id, else by every State.Pid."""
        deadline_at = time.monotonic() + deadline_seconds
        container, failed = container_id_of(server.cgroup or ""), None
        for engine in self._engines.believed(server.uid):
            try:
                with engine.calls(deadline_at - time.monotonic()) as call:
                    inspected = call.known(container) if container else None
                    if inspected is None:
                        inspected = _running_as(call, server.pid)
                    place = None if inspected is None else place_in(inspected, server.pid)
                    if inspected is not None and place is not None:
                        self._not_alone = self._not_alone | {key_of(engine, inspected): place}
                        return self._read(call, inspected)
            except RuntimeFailed as problem:
                failed = failed or problem
        if failed is not None:
            raise failed
        return None

    def read(self, name: str, deadline_seconds: float) -> RuntimeReading:
        """The container by its name, also while it is stopped."""
        with self._calls(name, deadline_seconds) as (call, inspected):
            return self._read(call, inspected)

    def facts(self, name: str, uid: int | None, deadline_seconds: float) -> ContainerFacts:
        """What advice needs to know of a container: who keeps it, what it runs, who reaches it.

        What is written by it may be written as root, so only engines that are believed are asked.
        """
        deadline_at = time.monotonic() + deadline_seconds
        engine = _holder(name, self._engines.believed(uid), deadline_at)
        with engine.calls(deadline_at - time.monotonic()) as call:
            return facts_of(call.inspect(name))

    def stop(self, name: str, deadline_seconds: float) -> None:
        """SIGTERM, then SIGKILL; its restart policy leaves it alone after that."""
        with self._calls(name, deadline_seconds) as (call, inspected):
            before = self._read(call, inspected)
            _may(before, "stop")
            if before.state is RuntimeState.STOPPED:
                return
            failed = None
            try:
                call.stop(before.id, STOP_GRACE_SECONDS, ASK_AFTERWARDS_SECONDS)
            except RuntimeFailed as problem:
                if problem.kind not in ("hanging", "refused"):
                    raise
                failed = problem  # Docker itself may hang, or only what it was asked for
            # Not by `inspect`: that waits for whoever works on the container.
            if any(entry.get("Id") == before.id for entry in call.running()):
                text = f"the container {name} still runs though Docker was asked to stop it"
                raise RuntimeFailed("stuck", text) from failed

    def start(self, name: str, deadline_seconds: float) -> None:
        """Start it; one that runs already is left alone."""
        with self._calls(name, deadline_seconds) as (call, inspected):
            before = self._read(call, inspected)
            if before.state is RuntimeState.RUNNING:
                return
            _may(before, "start")
            call.start(before.id)
            now = call.inspect(before.id)
            if not readings.is_running(now):
                code = table(now.get("State")).get("ExitCode")
                raise RuntimeFailed("refused", f"the container {name} ended at once, with exit code {code}")

    def listen(self, name: str, tell: Callable[[Told], None], wanted: Callable[[], bool]) -> None:
        """Tell what Docker says of the container, in rounds: what lies between two of them is in the second.

        Docker ends a round; a stream that ends earlier has lost its engine.
        """
        since = time.time()
        while wanted():
            until, begun = since + ROUND_SECONDS, time.monotonic()
            with self._calls(name, OPENING_SECONDS) as (call, inspected):
                called = readings.name_of(inspected)
                for event in call.events(called, readings.EVENTS, since, until, SLACK_SECONDS):
                    told = readings.told_of(event, called)
                    if told is not None:
                        tell(told)
            if time.monotonic() - begun < ROUND_SECONDS - EARLY_SECONDS:
                raise RuntimeFailed("absent", "Docker no longer tells what happens to its containers")
            since = until

    def limit(self, name: str, limits: Limits, deadline_seconds: float) -> tuple[str, ...]:
        """Set live limits; returns a sentence for each one that was left out, and why. Never below use."""
        with self._calls(name, deadline_seconds) as (call, inspected):
            _may(self._read(call, inspected), "limit")
            key, now = key_of(call.engine, inspected), limiting.limits_of(inspected)
            used, unread = _used(call, inspected) if readings.is_running(inspected) else (None, "")
            if unread:
                limits = replace(limits, memory_bytes=None)
            plan = limiting.plan(limits, now, self._book.before(key) or now, used)
            left_out = [*filter(None, (unread,)), *plan.left_out]
            for what, change in plan.changes.items():
                self._book.remember(key, now)
                try:
                    call.update(readings.id_of(inspected), change)
                except RuntimeFailed as problem:
                    if problem.kind != "refused":
                        raise
                    left_out.append(f"no {what} limit, since {_swap_said(what, str(problem))}")
            return tuple(left_out)

    def unlimit(self, name: str, deadline_seconds: float) -> None:
        """Put the limits back that were there before the first `limit`."""
        with self._calls(name, deadline_seconds) as (call, inspected):
            key, now = key_of(call.engine, inspected), limiting.limits_of(inspected)
            owner = self._book.before(key)
            if owner is None:
                return
            for change in limiting.undoing(owner):
                touched = any(now[word] != owner.get(word, 0) for word in change)
                if touched and any(now[word] != value for word, value in change.items()):
                    call.update(readings.id_of(inspected), change)
            self._book.forget(key)

    def _read(self, call: Call, inspected: dict[str, Any]) -> RuntimeReading:
        clocks = readings.Clocks(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
        shared_by = self._sharing(call, inspected)
        reading = readings.reading_of(inspected, shared_by, self._env_folder, clocks)
        key = key_of(call.engine, inspected)
        if why := self._not_alone.get(key):
            reading = not_alone(reading, why)
        owners = self._book.before(key)
        if owners is not None:
            reading = replace(reading, owners_limit_bytes=owners.get("Memory", 0))
        return as_told_by(call.engine, reading)

    def _sharing(self, call: Call, inspected: dict[str, Any]) -> list[str]:
        """The running containers that live in this one's namespaces."""
        this = readings.id_of(inspected)
        listed = [entry for entry in call.running() if entry.get("Id") != this][:INSPECT_LIMIT]
        names, name = [], readings.name_of(inspected)
        known, joins = self._joins, {}  # replaced whole, since another thread may be reading it
        for entry in listed:
            other, key = readings.id_of(entry), key_of(call.engine, entry)
            if key not in known:
                seen = call.known(other)
                joins[key] = frozenset() if seen is None else readings.joins(seen)
            else:
                joins[key] = known[key]
            if any(this.startswith(joined) or joined == name for joined in joins[key]):
                names.append((*words(entry.get("Names")), other)[0].lstrip("/"))
        self._joins = joins
        return sorted(names)

    @contextlib.contextmanager
    def _calls(self, name: str, deadline_seconds: float) -> Iterator[tuple[Call, dict[str, Any]]]:
        """One operation on the engine that has a container of this name."""
        deadline_at = time.monotonic() + deadline_seconds
        engines, plain = self._engines.of(name)
        engine = _holder(plain, engines, deadline_at)
        with engine.calls(deadline_at - time.monotonic()) as call:
            yield call, call.inspect(plain)


def _holder(name: str, candidates: list[Engine], deadline_at: float) -> Engine:
    """The first that knows the container; if none does, the first of all, which says why not."""
    if len(candidates) > 1:
        for engine in candidates:
            with contextlib.suppress(RuntimeFailed), engine.calls(deadline_at - time.monotonic()) as call:
                if call.known(name) is not None:
                    return engine
    return candidates[0]


def _running_as(call: Call, pid: int) -> dict[str, Any] | None:
    for entry in call.running()[:INSPECT_LIMIT]:
        inspected = call.known(readings.id_of(entry))
        if inspected is not None and readings.main_pid(inspected) == pid:
            return inspected
    return None


def _used(call: Call, inspected: dict[str, Any]) -> tuple[int | None, str]:
    """What it uses now, or why that can't be read; then no memory limit may be set, it could be below use."""
    try:
        used = limiting.used_bytes(call.stats(readings.id_of(inspected)))
    except RuntimeFailed as problem:
        if problem.kind not in ("denied", "refused"):
            raise
        return None, f"no memory limit, since its use can't be read ({problem})"
    return used, "" if used is not None else "no memory limit, since Docker does not tell its use"


def _may(reading: RuntimeReading, verb: str) -> None:
    """The last look before the act: what was true when it was decided may have changed."""
    if verb not in reading.verbs:
        raise RuntimeFailed("refused", reading.cannot)


def _swap_said(what: str, text: str) -> str:
    """Docker's refusal, with the reason that its words only hint at."""
    swap = "swap" in text.lower() or "memsw" in text
    return (
        f"Docker refused it because of swap: {text}"
        if what == "memory" and swap
        else f"Docker refused it: {text}"
    )
