"""A yard: a memory-limited cgroup with an Ollama server inside and, if wanted, a guard that watches it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from beds.cgroups import MemoryCgroup
from beds.decoys import TcpProxy
from beds.guard import Guard
from beds.hog import Hog
from beds.process import alive, rss_bytes
from beds.server import Server, start_server

MIB = 1 << 20
GIB = 1 << 30


@dataclass
class Yard:
    """One run of a story: its cgroup, its server, its guard (None = the guard is off).

    ``proxy`` holds the port at which the guard asks, where the story wants one.
    """

    cgroup: MemoryCgroup
    server: Server
    guard: Guard | None
    proxy: TcpProxy | None = None

    def hog(self) -> Hog:
        """A memory hog inside the cgroup."""
        return Hog(self.cgroup.popen)

    def loaded(self) -> set[str]:
        """Names (without ``:latest``) of models with a live runner, by the process list."""
        return {name for name, pid in self.server.runner_pids().items() if alive(pid)}

    def pid_of(self, model: str) -> int:
        """The PID of a model's runner."""
        return self.server.runner_pids()[model]

    def wait_count(self, count: int, seconds: float) -> bool:
        """Wait until just so many models have a runner."""
        deadline = time.monotonic() + seconds
        while len(self.loaded()) != count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def wait_state(self, model: str, state: str, seconds: float = 30.0) -> None:
        """With a guard: until it calls a model idle, busy or loading. Without: a moment for the same."""
        if self.guard is None:
            time.sleep(0.2)
            return
        guard = self.guard
        guard.wait(lambda: guard.model_states().get(model) == state, seconds, f"{model} is {state}")

    def evidence(self) -> str:
        """What tells a decision of the guard from an accident, for a failing test's message.

        A runner that died without a decision in the log was ended by the kernel (then ``oom kills`` rose), or
        its line was lost (then ``dropped`` did, or a line can't be read).
        """
        inside = ", ".join(f"{pid} {rss_bytes(pid) // MIB} MiB" for pid in self.cgroup.pids())
        told = (
            f"oom kills {self.cgroup.oom_kills()}, {self.cgroup.available() // MIB} MiB available ({inside})"
        )
        if self.guard is None:
            return f"{told}, no guard"
        report = self.guard.report()
        lines = len(self.guard.tail(1 << 30).splitlines())
        garbled = lines - len(self.guard.events())
        return f"{told}, {garbled} of {lines} lines garbled, report {report}\n{self.guard.tail()}"


@contextlib.contextmanager
def yard(
    kind: str,
    limit_bytes: int,
    *,
    guarded: bool,
    config: str = "",
    ollama: str = "",
    proxied: bool = False,
    env: Mapping[str, str] | None = None,
) -> Iterator[Yard]:
    """A fresh yard; ``kind`` is ``real`` (0.5.4) or ``fake`` (the dialect since 0.30).

    ``proxied``: a proxy stands between the guard (not the clients) and the server. ``config``, ``ollama`` and
    ``env`` are the guard's.
    """
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(MemoryCgroup(limit_bytes, "yard"))
        server = stack.enter_context(start_server(kind, cgroup))
        proxy = stack.enter_context(TcpProxy(server.port, launcher=cgroup.popen)) if proxied else None
        guard = None
        if guarded:
            url = proxy.url if proxy else server.url
            guard = stack.enter_context(
                Guard(url, cgroup=f"/{cgroup.name}", config=config, ollama=ollama, env=env)
            )
            guard.wait_guarding(server.pid)
        place = Yard(cgroup, server, guard, proxy)
        try:
            yield place
        except Exception as failure:
            failure.add_note(place.evidence())
            raise


Told = dict[str, Any]
"""What a story tells of its end, fact by fact."""


def facts(told: Told) -> str:
    """All of it, a line each, for a failing test's message (pytest would cut a dict short)."""
    return "\n".join(f"{key}: {value}" for key, value in told.items())


class Controls:
    """What the stories tell with the guard off, which is told anew after ``uses_most`` uses (0: never)."""

    def __init__(self) -> None:
        self.uses_most = 0
        self._told: dict[tuple[object, ...], tuple[Told, int]] = {}

    def told(self, story: Callable[..., Told], where: tuple[str, ...]) -> Told:
        """The story with the guard off, or what it told the last time."""
        told, uses = self._told.get((story, *where), ({}, 0))
        if not told or uses == self.uses_most != 0:
            told, uses = story(*where, guarded=False), 0
        self._told[(story, *where)] = told, uses + 1
        return told


CONTROLS = Controls()


def unguarded(story: Callable[..., Told], *where: str) -> Told:
    """The same story with the guard off: once a process, since repetition is about the guard.

    In the long form (`--soak`) it is told anew for every second use: for each one it would take half an hour.
    """
    return CONTROLS.told(story, where)


@dataclass
class Watch:
    """A thread that samples the yard: least available, most resident of one model's runner, silences."""

    place: Yard
    model: str = ""
    least_available: int = 1 << 62
    most_resident: int = 0
    most_runners: int = 0
    failed_versions: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        asked = 0.0
        while not self._stop.wait(0.01):
            self.least_available = min(self.least_available, self.place.cgroup.available())
            runners = self.place.server.runner_pids()
            self.most_runners = max(self.most_runners, len(runners))
            if self.model in runners:
                self.most_resident = max(self.most_resident, rss_bytes(runners[self.model]))
            if time.monotonic() - asked > 0.5:
                asked = time.monotonic()
                try:
                    self.place.server.get("/api/version", timeout=5.0)
                except OSError:
                    self.failed_versions += 1
