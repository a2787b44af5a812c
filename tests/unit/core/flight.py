"""A made-up world whose guard is recorded, as the sentinel records it."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core.decide import decide
from ollama_guard.core.model import Decision
from ollama_guard.core.policy import Policy
from ollama_guard.core.scribe import Scribe
from ollama_guard.core.trace import START, Header
from ollama_guard.testing.scenario import World


class Flight(World):
    """A world whose guard is recorded; ``again`` takes every decision twice, as a second look does."""

    def begin(self, why: str = START, lost: int = 0) -> None:
        """Write a header."""
        self.lines: list[str] = getattr(self, "lines", [])
        self.scribe = getattr(self, "scribe", Scribe())
        self.lines.append(
            self.scribe.header(Header("1.0", "boot", 1.7e9, why, lost, self.policy, self.state))
        )

    def tick(self, *, again: bool = False) -> Decision:
        """Decide, recorded; with ``again`` once more from the same state."""
        snapshot, before = self.snapshot(), self.state
        self.state, decision = decide(self.policy, before, snapshot)
        self.lines.append(self.scribe.look(snapshot, decision, again=False))
        if again or decision.needs_second_look:
            snapshot = replace(snapshot, now=snapshot.now + 0.001)
            self.state, decision = decide(self.policy, before, snapshot)
            self.lines.append(self.scribe.look(snapshot, decision, again=True))
        self.requests = ()
        self.decisions.append(decision)
        for action in () if decision.would else decision.actions:
            self._begin(action)
        return decision

    def settle(self) -> None:
        """Report outcomes, recorded."""
        known = len(self.outcomes)
        before = self.state
        super().settle()
        for _, outcome in self.outcomes[known:]:
            self.lines.append(self.scribe.ended(outcome))
        if known == len(self.outcomes):
            assert self.state is before

    def adopt(self, policy: Policy) -> None:
        """Another policy, recorded."""
        self.policy = policy
        self.lines.append(self.scribe.adopted(policy))
