"""How the made-up Ollama of a `scenario.World` is run: what is done to its server, and how that goes wrong.

What an action does is done when it ends (`end`), so that a story can let the guard die before or after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, ServerReading
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.core.runtime import Limits, RuntimeKind, RuntimeReading, RuntimeState

FIRST_PID = 100
NAME = "ollama.service"
SERVER_ACTIONS = (
    ActionKind.CONSTRAIN, ActionKind.STOP, ActionKind.KILL_SERVER, ActionKind.QUARANTINE, ActionKind.START,
    ActionKind.VERIFY, ActionKind.RESTORE, ActionKind.RELEASE, ActionKind.RESTART,
)  # fmt: skip


@dataclass
class Served:
    """One runtime with one server; ``ill`` is a server that answers nothing until it is started anew.

    ``faults`` says how the next actions of a kind end, first to last: ``fail`` (nothing happens), ``refuse``
    (nor is it tried), ``late`` (it happens, but is reported as failed), ``cut`` (it happens, and who runs the
    server goes away over it), ``lost`` (it happens, nobody hears of it), ``hang`` (neither), ``half`` (a
    restart stops, and does not start). While ``away``
    nobody is there who could stop or start it.
    What is not in it ends well after ``seconds``. ``done`` are the actions that took effect.
    """

    reading: RuntimeReading = field(
        default_factory=lambda: RuntimeReading(
            RuntimeKind.SYSTEMD, NAME, RuntimeState.RUNNING, server_pid=FIRST_PID, constrainable=True,
            verbs=("stop", "start", "limit"),
        )
    )  # fmt: skip
    running: bool = True
    ill: bool = False
    process_state: str = "S"
    traced: bool = False
    frozen: bool = False
    away: bool = False
    pid: int = FIRST_PID
    started_at: float = 0.0
    busy: str = ""
    writable: bool = True
    readable: bool = True
    seconds: float = 0.5
    written: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    limits: Limits | None = None
    hidden: tuple[str, ...] = ()
    faults: dict[ActionKind, list[str]] = field(default_factory=dict)
    done: list[Action] = field(default_factory=list)
    _needs: dict[str, tuple[str | None, int]] = field(default_factory=dict)

    def servers(self) -> tuple[ServerReading, ...]:
        """The server process, while there is one."""
        if not self.running:
            return ()
        return (
            ServerReading(
                self.pid, int(self.started_at * 100) + 1, 0, "/ollama", "argv says serve", self.process_state,
                self.traced, self.frozen,
            ),
        )  # fmt: skip

    def runtimes(self, now: float) -> tuple[RuntimeReading, ...]:
        """What hands tell of it."""
        started_at = max(self.started_at, self.reading.started_at or 0.0)
        told = replace(self.reading, read_at=now, started_at=started_at)
        if self.away:
            return (replace(told, server_pid=self.pid, error="absent", reason="no Docker listens"),)
        if not self.running:
            return (replace(told, state=RuntimeState.STOPPED, server_pid=None),)
        return (replace(told, server_pid=self.pid),)

    def store(self, now: float) -> StoreReading:
        """The store with what is hidden in it."""
        entries = tuple(
            QuarantineEntry(name, f"quarantine/{name}", blob, Hidden.OFFLINE, 1.7e9, needs_bytes=needs)
            for name, (blob, needs) in self._needs.items()
            if name in self.hidden
        )
        return StoreReading(
            "/models", writable=self.writable, entries=entries, busy=self.busy, read_at=now,
            readable=self.readable,
        )  # fmt: skip

    def fault(self, kind: ActionKind) -> str:
        """How the next action of a kind ends; "" is well."""
        planned = self.faults.get(kind)
        return planned.pop(0) if planned else ""

    def end(self, action: Action, now: float) -> Outcome | None:
        """Do what an action does; how it ended, None when nobody ever hears of it."""
        fault = self.fault(action.kind)
        if action.kind is ActionKind.QUARANTINE and not (self.writable or self.running):
            fault = fault or "fail"
        if self.away and action.kind in (ActionKind.STOP, ActionKind.START, ActionKind.RESTART):
            fault = fault or "away"
        if fault == "half":
            self.running = False
        elif fault not in ("fail", "refuse", "away", "hang"):
            self._do(action, now)
        self.away |= fault == "cut"
        if fault in ("lost", "hang"):
            return None
        if fault:
            word = {"refuse": "refused", "away": "absent", "cut": "absent"}.get(fault, "stuck")
            return Outcome(action.id, OutcomeKind.FAILED, now, detail=f"{word}: made to {fault}")
        return Outcome(action.id, OutcomeKind.DONE, now, detail="as asked")

    def _start(self, now: float) -> None:
        self.running, self.ill, self.process_state = True, False, "S"
        self.pid, self.started_at, self.environment = self.pid + 50, now, dict(self.written)

    def _do(self, action: Action, now: float) -> None:
        self.done.append(action)
        match action.kind:
            case ActionKind.CONSTRAIN:
                self.written, self.limits = dict(action.environment), action.limits
            case ActionKind.RELEASE:
                self.written, self.limits = {}, None
                self.reading = replace(self.reading, left_lines={}, owners_limit_bytes=None)
            case ActionKind.STOP | ActionKind.KILL_SERVER:
                self.running = False
            case ActionKind.START if not self.running:
                self._start(now)
            case ActionKind.RESTART:
                self._start(now)
            case ActionKind.QUARANTINE:
                self._needs |= dict.fromkeys(action.names, (action.blob, action.needs_bytes))
                self.hidden = tuple(dict.fromkeys((*self.hidden, *action.names)))
            case ActionKind.RESTORE:
                self.hidden = tuple(name for name in self.hidden if name not in action.names)
            case _:
                pass
