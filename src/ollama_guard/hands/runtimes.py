"""Finds out how each server is run, keeps that fresh, and remembers it for the time when the server is gone.

A server that was found is looked for once; after that its runtime is read by name. Polling is enough: a look
takes Docker or systemd some milliseconds, and whatever changes a server changes its process, which the
sentinel sees at once and tells. What Docker tells by itself (`listening`) makes the next look an early one.
All but the calls runs in the main loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ollama_guard.core.model import ServerReading
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.core.runtime import RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.hands.announcing import Announcer
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, Overdue, Result
from ollama_guard.hands.listening import Listening
from ollama_guard.hands.looking import SHORT_ID, Key, Look, Looked, PortOf, failed
from ollama_guard.hands.remembered import RememberedRuntimes, StoppedRuntimes
from ollama_guard.ports import RuntimePort
from ollama_guard.wire import Message, RuntimesObserved

# Seconds between two looks while all is well, and the first of those, doubling, after which one is taken
# again while something is not.
CALM_SECONDS = 15.0
UNSETTLED_SECONDS = 1.0
# Seconds for one look with all its calls; a call gets `looking.CALL_SECONDS` of them.
LOOK_SECONDS = 12.0
# Seconds for which a runtime that is gone is looked for: compose takes one away to make it anew.
GONE_SECONDS = 600.0
# Seconds for which a stopped one is remembered while other servers run; longer than any recovery may take.
STOPPED_SECONDS = 3600.0

PortsOf = Callable[[OllamaPolicy], PortOf]
Send = Callable[[Message], object]
Name = tuple[RuntimeKind, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A runtime as it was last read; ``port`` makes who acts on it (for a lane: it may import a library)."""

    reading: RuntimeReading
    port: Callable[[], RuntimePort]


class Runtimes:
    """A timed part of the main loop; tells the sentinel after every look."""

    def __init__(
        self, policy: Policy, ports_of: PortsOf, state_dir: Path, mailbox: Mailbox, send: Send, clock: Clock
    ) -> None:
        self._ports_of = ports_of
        self._remembered = RememberedRuntimes(state_dir)
        self.stopped, self._left_down = StoppedRuntimes(state_dir), frozenset[str]()
        self._environment, self._left_lines = EnvironmentFile(state_dir), dict[str, str]()
        self._send = send
        self._clock = clock
        self._lane = Lane("runtimes", 1, mailbox, clock)
        self._keeping = Lane("remembering", 1, mailbox, clock)
        self._servers: dict[Key, ServerReading] = {}
        self._readings: dict[Name, RuntimeReading] = {}
        self._left_at: dict[Name, float] = {}
        self._announcer = Announcer()
        self._listening = Listening(mailbox, self._look_now, clock)
        self._kept: frozenset[Name] | None = None
        self._asking = self._warned = False
        self._due_at, self._wait_seconds = 0.0, UNSETTLED_SECONDS
        self._begin(policy)

    def _begin(self, policy: Policy) -> None:
        self._policy = policy.ollama
        self._port_of = self._ports_of(policy.ollama)
        self._found: dict[Key, RuntimeReading] = {}
        self._unfound: dict[Key, RuntimeReading] = {}
        self._look_now()

    def follow(self, policy: Policy) -> None:
        """Take a new policy over; another runtime or engine means that every server is looked for anew."""
        old, new = self._policy, policy.ollama
        if (old.runtime, old.runtime_name, old.docker_host) == (
            new.runtime,
            new.runtime_name,
            new.docker_host,
        ):
            self._policy = new
        else:
            self._begin(policy)

    def told(self, servers: tuple[ServerReading, ...]) -> None:
        """The sentinel's proven servers have changed."""
        self._servers = {(server.pid, server.start_ticks): server for server in servers}
        self._found = {key: reading for key, reading in self._found.items() if key in self._servers}
        self._unfound = {key: reading for key, reading in self._unfound.items() if key in self._servers}
        self._look_now()

    def acted(self) -> None:
        """Something was done to a server: what was read before may be wrong."""
        self._look_now()

    def by_name(self, name: str) -> Known | None:
        """A known runtime (the only one, if ``name`` is ""), and what makes the port that acts on it."""
        named = [reading for reading in self._all() if name in ("", reading.name)]
        if len(named) != 1:
            return None
        port_of, kind = self._port_of, named[0].kind
        return Known(named[0], lambda: port_of(kind))

    def due_at(self) -> float:
        """When `step` has something to do, in boottime seconds."""
        return float("inf") if self._asking else self._due_at

    def step(self) -> None:
        """Start a look when it is due."""
        self._lane.check()
        self._keeping.check()
        now = self._clock()
        if self._asking or now < self._due_at:
            return
        self._asking, self._due_at = True, float("inf")
        look = Look(
            policy=self._policy,
            port_of=self._port_of,
            unfound=tuple(server for key, server in self._servers.items() if key not in self._found),
            known=tuple(self._readings),
            stopped=self.stopped,
            environment=self._environment,
            remembered=self._remembered if self._kept is None else None,
        )
        self._lane.submit(look.take, now + LOOK_SECONDS, lambda result: self._on_looked(look, result))

    def _look_now(self) -> None:
        self._due_at, self._wait_seconds = self._clock(), UNSETTLED_SECONDS

    def _on_looked(self, look: Look, result: Result) -> None:
        self._asking = False
        if look.port_of is not self._port_of:
            return  # the policy names another runtime or engine since then: what is due will ask it
        if result.error is None:
            self._take_in(cast("Looked", result.value))
        else:
            word = "hanging" if isinstance(result.error, Overdue) else "bad_answer"
            for name in look.known:
                self._readings[name] = self._still(failed(*name, word, str(result.error)))
        self._forget()
        for reading in self._all():
            self._announcer.tell(reading)
        self._keep()
        there = (name for name, one in self._readings.items() if one.state is not RuntimeState.GONE)
        self._listening.follow(there, self._port_of)
        settled = all(self._is_settled(reading) for reading in self._all())
        delay = CALM_SECONDS if settled else self._wait_seconds
        self._wait_seconds = min(self._wait_seconds * 2, CALM_SECONDS)
        self._due_at = min(self._due_at, self._clock() + delay)
        self._send(RuntimesObserved(tuple(self._all())))

    def _take_in(self, looked: Looked) -> None:
        if self._kept is None:
            self._kept = frozenset(looked.remembered)
        self._left_down, self._left_lines = looked.stopped, dict(looked.left_lines)
        for key, reading in looked.found.items():
            if key in self._servers:
                (self._unfound if reading.error else self._found)[key] = reading
                if not reading.error:
                    self._unfound.pop(key, None)
                    self._readings[reading.kind, reading.name] = self._still(reading)
        for reading in looked.read:
            self._readings[reading.kind, reading.name] = self._still(reading)

    def _all(self) -> list[RuntimeReading]:
        """Every known runtime, and one for each server whose runtime could not be asked."""
        known = [
            replace(
                reading,
                stopped_by_us=reading.state is RuntimeState.STOPPED and reading.name in self._left_down,
                left_lines=self._left_lines if reading.constrainable else {},
            )
            for reading in self._readings.values()
        ]
        names = {(reading.kind, name) for reading in known for name in (reading.name, reading.id[:SHORT_ID])}
        return [*known, *(stand for stand in self._unfound.values() if (stand.kind, stand.name) not in names)]

    def _still(self, reading: RuntimeReading) -> RuntimeReading:
        """One that can't be read now keeps what is known of it; a server keeps its own PID (``--init``)."""
        last = self._readings.get((reading.kind, reading.name))
        if reading.error and last is not None:
            return replace(
                last, state=reading.state, read_at=reading.read_at, error=reading.error, reason=reading.reason
            )
        for (pid, _), found in self._found.items():
            same = (found.kind, found.name, found.server_pid) == (
                reading.kind,
                reading.name,
                reading.server_pid,
            )
            if same and reading.server_pid is not None:
                return replace(reading, server_pid=pid)
        return reading

    def _is_settled(self, reading: RuntimeReading) -> bool:
        """Whether nothing is on its way; a server that only the runtime knows just came or went."""
        if reading.error or reading.state in (RuntimeState.CHANGING, RuntimeState.UNKNOWN):
            return False
        pids = {pid for pid, _ in self._servers}
        return reading.state is not RuntimeState.RUNNING or reading.server_pid in pids

    def _forget(self) -> None:
        """Drop what is gone, and what stands still while others run the servers: the owner moved."""
        now = self._clock()
        left = {name: self._patience(reading) for name, reading in self._readings.items()}
        self._left_at = {
            name: self._left_at.get(name, now) for name, patience in left.items() if patience is not None
        }
        for name, since in self._left_at.items():
            if now - since >= (left[name] or 0.0) and name != (
                self._policy.runtime,
                self._policy.runtime_name,
            ):
                del self._readings[name]

    def _patience(self, reading: RuntimeReading) -> float | None:
        """Seconds after which a runtime in this state is forgotten; None: never."""
        if reading.state is RuntimeState.GONE:
            return 0.0 if reading.kind is RuntimeKind.PROCESS else GONE_SECONDS
        return STOPPED_SECONDS if reading.state is RuntimeState.STOPPED and self._found else None

    def _keep(self) -> None:
        """Have the names outlive this process: a stopped Ollama must be startable after the guard's death."""
        names = frozenset(name for name in self._readings if name[0] is not RuntimeKind.PROCESS)
        if self._kept is None or names == self._kept:
            return
        self._kept = names
        deadline_at = self._clock() + LOOK_SECONDS
        self._keeping.submit(lambda: self._remembered.write(names), deadline_at, self._on_kept)

    def _on_kept(self, result: Result) -> None:
        if result.error is None:
            self._warned = False
            return
        self._kept = frozenset()  # so that it is tried again after the next look
        if not self._warned:
            self._warned = True
            text = f"how Ollama is run is not remembered: {result.error}"
            log().warning("guard.warned", message=text)
