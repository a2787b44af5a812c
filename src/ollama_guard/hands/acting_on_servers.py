"""Carries out what is done to a server itself: constrain, stop, start, restart, release.

In a lane of its own, so that a Docker that hangs never holds up an unload.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ollama_guard.core.events import one_line
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind
from ollama_guard.core.runtime import Limits, RuntimeReading, RuntimeState
from ollama_guard.core.units import bytes_text, count_text
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, NeverStarted, Overdue, Result
from ollama_guard.hands.remembered import StoppedRuntimes
from ollama_guard.hands.runtimes import Known
from ollama_guard.ports import RuntimePort
from ollama_guard.wire import Message, OutcomeReported

KINDS = frozenset(
    {ActionKind.CONSTRAIN, ActionKind.STOP, ActionKind.START, ActionKind.RELEASE, ActionKind.RESTART}
)
# A stop that hangs must not keep a start or a release waiting.
WORKERS = 2
# Failures of a stop after which it may end all the same: who was asked did not say no.
_MAY_END = frozenset({"hanging", "stuck", "absent", "bad_answer"})
# Seconds between two looks whether a process has ended.
_LOOK_SECONDS = 0.05


class ServerActor:
    """Every action ends in exactly one Outcome; a failure begins with its word (``hanging: …``)."""

    def __init__(
        self,
        known: Callable[[str], Known | None],
        environment: EnvironmentFile,
        mailbox: Mailbox,
        send: Callable[[Message], object],
        clock: Clock,
        acted: Callable[[], None],
        stopped: StoppedRuntimes,
    ) -> None:
        self._known = known
        self._environment = environment
        self._send = send
        self._clock = clock
        self._acted = acted
        self._stopped = stopped
        self._lane = Lane("servers", WORKERS, mailbox, clock)
        self._under_way: set[int] = set()
        self._wanted: dict[str, Limits | None] = {}

    def act(self, action: Action) -> None:
        """Start one action; its Outcome follows. The same id again, while under way, is ignored."""
        if action.id in self._under_way:
            return
        self._under_way.add(action.id)
        known = self._known(action.runtime)
        if action.kind in (ActionKind.CONSTRAIN, ActionKind.RELEASE):
            self._wanted[action.runtime] = action.limits
        elif action.kind is ActionKind.START and action.limits is None:
            # What was below use while it ran can be set now, while it uses nothing.
            action = replace(action, limits=self._wanted.get(action.runtime))
        self._lane.submit(
            lambda: self._carry_out(action, known),
            action.deadline_at,
            lambda result: self._report(action, result),
        )

    def check(self) -> None:
        """Give up calls that are overdue."""
        self._lane.check()

    def _carry_out(self, action: Action, known: Known | None) -> str:
        left = action.deadline_at - self._clock()
        deed = _Deed(action, known, self._environment, self._stopped, time.monotonic() + left)
        match action.kind:
            case ActionKind.CONSTRAIN:
                return deed.constrain()
            case ActionKind.STOP:
                return deed.stop()
            case ActionKind.START:
                return deed.start()
            case ActionKind.RELEASE:
                return deed.release()
            case ActionKind.RESTART:
                return deed.restart()
            case _:
                raise RuntimeFailed("unsupported", f"an action {action.kind} can't be done here")

    def _report(self, action: Action, result: Result) -> None:
        self._under_way.discard(action.id)
        kind, detail = OutcomeKind.DONE, str(result.value)
        if result.error is not None:
            kind, detail = OutcomeKind.FAILED, str(result.error)
            if isinstance(result.error, RuntimeFailed):
                detail = f"{result.error.kind}: {detail}"
            elif isinstance(result.error, NeverStarted):
                kind = OutcomeKind.SKIPPED
            elif isinstance(result.error, Overdue):
                detail = f"hanging: {detail}"
        self._send(OutcomeReported(Outcome(action.id, kind, self._clock(), detail=one_line(detail))))
        self._acted()


class _Deed:
    """One action with its runtime and its deadline (monotonic seconds); every step is safe to repeat."""

    def __init__(
        self,
        action: Action,
        known: Known | None,
        environment: EnvironmentFile,
        stopped: StoppedRuntimes,
        until: float,
    ) -> None:
        self._action = action
        self._known = known
        self._environment = environment
        self._stopped = stopped
        self._until = until

    @property
    def _left_seconds(self) -> float:
        return max(self._until - time.monotonic(), 0.0)

    def _runtime(self) -> tuple[RuntimeReading, RuntimePort]:
        if self._known is None:
            raise RuntimeFailed("absent", f"no runtime {self._action.runtime!r} is known")
        return self._known.reading, self._known.port()

    def constrain(self) -> str:
        """The environment file first: a limit that can't be set must not keep it from being written."""
        self._environment.write(self._action.environment)
        said = [f"{count_text(len(self._action.environment), 'line')} in {self._environment.path}"]
        if self._known is not None and not self._known.reading.constrainable:
            name = self._known.reading.name
            said.append(f"{name} does not read them (`ollama-guard init` writes what it lacks)")
        return "; ".join((*said, *self._limit()))

    def _limit(self) -> tuple[str, ...]:
        """Set the action's live limits, if any; what was left out is said, and never a failure."""
        limits = self._action.limits
        if limits is None:
            return ()
        try:
            reading, port = self._runtime()
            left_out = port.limit(reading.name, limits, self._left_seconds)
        except RuntimeFailed as problem:
            return (f"no live limits ({problem.kind}: {problem})",)
        return (f"asked for {_limits_text(limits)}", *left_out)

    def stop(self) -> str:
        """Done when the server's process is gone, whatever its runtime says."""
        reading, port = self._runtime()
        now = port.read(reading.name, self._left_seconds)
        pids = {pid for pid in (reading.server_pid, now.server_pid, self._action.pid) if pid is not None}
        before = {pid: start for pid in pids if (start := _start_of(pid)) is not None}
        self._stop(reading.name, port)
        while any(_start_of(pid) == start for pid, start in before.items()):
            if not self._left_seconds:
                text = f"{reading.name} was stopped, but its process {min(before)} is still there"
                raise RuntimeFailed("stuck", text)
            time.sleep(_LOOK_SECONDS)
        return f"{reading.name} is stopped, and nothing starts it again by itself"

    def _stop(self, name: str, port: RuntimePort) -> None:
        """Written down before; what was refused was not stopped. A full disk is no reason not to recover."""
        with contextlib.suppress(RuntimeFailed):
            self._stopped.stopping(name)
        try:
            port.stop(name, self._left_seconds)
        except RuntimeFailed as problem:
            if problem.kind not in _MAY_END:
                with contextlib.suppress(RuntimeFailed):
                    self._stopped.started(name)
            raise

    def start(self) -> str:
        """The limits first: once it runs, they may be below use again."""
        reading, port = self._runtime()
        said = self._limit()
        port.start(reading.name, self._left_seconds)
        with contextlib.suppress(RuntimeFailed):
            self._stopped.started(reading.name)
        return "; ".join((f"{reading.name} runs", *said))

    def restart(self) -> str:
        """Only what runs with no model loaded; ``refused`` and ``denied`` mean that nothing was stopped."""
        reading, port = self._runtime()
        now = port.read(reading.name, self._left_seconds)
        if now.state is not RuntimeState.RUNNING or {"stop", "start"} - set(now.verbs):
            raise RuntimeFailed("refused", f"{reading.name} is {now.state}: {now.cannot or 'not restarted'}")
        if reading.server_pid is not None and _has_children(reading.server_pid):
            raise RuntimeFailed("refused", f"a model of {reading.name} has been loaded meanwhile")
        self.stop()
        try:
            return self.start()
        except RuntimeFailed as problem:
            text = f"{reading.name} was stopped and does not run yet ({problem.kind}: {problem})"
            raise RuntimeFailed("stuck", text) from problem

    def release(self) -> str:
        """No line and no limit of the guard's stays; a runtime that is gone took its limits with it."""
        emptied = self._environment.empty()
        said = f"{self._environment.path} is emptied" if emptied else "no line stood in the environment file"
        if self._known is None:
            return f"{said}; no runtime is known whose limits could be put back"
        reading, port = self._runtime()
        try:
            port.unlimit(reading.name, self._left_seconds)
        except RuntimeFailed as problem:
            if problem.kind != "gone":
                raise
            return f"{said}; {reading.name} is gone"
        return f"{said}; {reading.name} has the limits of its owner"


def _limits_text(limits: Limits) -> str:
    memory = () if limits.memory_bytes is None else (f"at most {bytes_text(limits.memory_bytes)}",)
    cpus = () if limits.cpus is None else (f"{limits.cpus:g} CPUs",)
    return " and ".join((*memory, *cpus)) or "no limits"


def _has_children(pid: int) -> bool:
    """Whether a process has any child now; what can't be read is none."""
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*/children"):
        with contextlib.suppress(OSError):
            if task.read_bytes().strip():
                return True
    return False


def _start_of(pid: int) -> bytes | None:
    """A living process' start time, which tells it from another with its number; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else fields[19]
