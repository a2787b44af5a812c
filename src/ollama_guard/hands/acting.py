"""Carries out the sentinel's actions and reports how each ended."""

from __future__ import annotations

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.errors import OllamaError
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, NeverStarted, Result
from ollama_guard.hands.watch import Send
from ollama_guard.ports import OllamaPort
from ollama_guard.wire import OutcomeReported

# Unloads at a time: one that blocks (facts 1.3) must leave the others their way.
WORKERS = 4
# An order of the keep_alive governor that has waited longer for its thread (seconds) is not sent: nothing
# presses for it, and the model may be in use again.
STALE_SECONDS = 1.0


class Actor:
    """Unloads and purges (one call serves both) in a lane of their own; nothing else.

    ``done`` means that Ollama took the order: an unload is asynchronous, and what really came back
    is the sentinel's to measure.
    """

    def __init__(self, mailbox: Mailbox, send: Send, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._lane = Lane("acting", WORKERS, mailbox, clock)
        self._under_way: set[int] = set()

    def act(self, action: Action, port: OllamaPort) -> None:
        """Start one action; its Outcome follows. The same id again, while under way, is ignored."""
        if action.id in self._under_way:
            return
        self._under_way.add(action.id)
        taken_at = self._clock()
        self._lane.submit(
            lambda: self._carry_out(action, port, taken_at),
            action.deadline_at,
            lambda result: self._report(action, result),
        )

    def check(self) -> None:
        """Give up calls that are overdue."""
        self._lane.check()

    def _carry_out(self, action: Action, port: OllamaPort, taken_at: float) -> str:
        model = action.model or next(iter(action.names), None)
        if action.kind not in (ActionKind.UNLOAD, ActionKind.PURGE_GHOST) or model is None:
            raise OllamaError("not_found", f"an action {action.kind} of model {model!r} can't be done here")
        left = action.deadline_at - self._clock()
        if left <= 0:
            raise NeverStarted("its deadline passed before it was sent")
        waited = self._clock() - taken_at
        if action.rung is Rung.KEEP_ALIVE and waited > STALE_SECONDS:
            raise NeverStarted(f"it waited for {waited:.1f} s, so it is judged anew")
        return port.unload(model, left)

    def _report(self, action: Action, result: Result) -> None:
        self._under_way.discard(action.id)
        kind, detail = OutcomeKind.FAILED, str(result.error)
        if isinstance(result.error, NeverStarted):
            kind = OutcomeKind.SKIPPED
        elif result.error is None and result.value == "unload":
            kind, detail = OutcomeKind.DONE, "accepted"
        elif result.error is None:
            detail = f"Ollama answered done_reason {result.value!r} to an unload"
        self._send(OutcomeReported(Outcome(action.id, kind, self._clock(), detail=detail)))
