"""Replies to people: what was settled at once, and which wish still waits for the outcome of its actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ollama_guard.core.model import Action, ActionKind, Decision, Outcome, OutcomeKind
from ollama_guard.core.units import bytes_text
from ollama_guard.wire import Replied

# What else than an unload can be asked for: its words when it is done, and when it is not.
_WORDS = {
    ActionKind.RELEASE: ("released", "not released"),
    ActionKind.QUARANTINE: ("hidden", "not hidden"),
    ActionKind.RESTORE: ("back", "not back"),
}


@dataclass(slots=True)
class _Pending:
    actions: dict[int, Action] = field(default_factory=dict)
    outcomes: list[tuple[Action, Outcome]] = field(default_factory=list)


class Answers:
    """Pending wishes by the id of their request."""

    def __init__(self, reply: Callable[[Replied], object]) -> None:
        self._reply = reply
        self._pending: dict[int, _Pending] = {}

    def decided(self, decision: Decision) -> None:
        """Answer what this decision settled; remember what it started."""
        for reply in decision.replies:
            self._reply(Replied(reply.request_id, reply.ok, reply.text, {}))
        for action in decision.actions:
            if action.request_id is not None:
                self._pending.setdefault(action.request_id, _Pending()).actions[action.id] = action

    def ended(self, outcome: Outcome) -> None:
        """One action ended; the wish whose last action it was is answered."""
        for request_id, pending in list(self._pending.items()):
            action = pending.actions.pop(outcome.action_id, None)
            if action is None:
                continue
            pending.outcomes.append((action, outcome))
            if not pending.actions:
                del self._pending[request_id]
                self._reply(_summary(request_id, pending.outcomes))

    def forget(self) -> None:
        """Those who asked are gone (their `hands` died)."""
        self._pending.clear()


def _summary(request_id: int, outcomes: list[tuple[Action, Outcome]]) -> Replied:
    return Replied(
        request_id,
        ok=all(outcome.kind is OutcomeKind.DONE for _, outcome in outcomes),
        text="; ".join(_sentence(action, outcome) for action, outcome in outcomes),
        detail={
            "freed_bytes": sum(outcome.freed_bytes for _, outcome in outcomes),
            "models": [" = ".join(action.names) for action, _ in outcomes],
        },
    )


def _sentence(action: Action, outcome: Outcome) -> str:
    title = " = ".join(action.names) or action.model or action.runtime or "the model"
    done, undone = _WORDS.get(action.kind, ("unloaded", "not unloaded"))
    if outcome.kind is not OutcomeKind.DONE:
        return f"{title} {undone}: {outcome.detail or outcome.kind.value}"
    if action.kind in _WORDS:
        return f"{title} {done}" + (f": {outcome.detail}" if outcome.detail else "")
    return f"{title} {done}, {bytes_text(outcome.freed_bytes)} came back"
