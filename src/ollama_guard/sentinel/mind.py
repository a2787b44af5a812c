"""Between the senses and `core`: one tick's looks, the second look, and the state that is carried on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ollama_guard.core import pace
from ollama_guard.core.decide import decide
from ollama_guard.core.events import Event, Priority
from ollama_guard.core.footprint import Ledger, Lesson
from ollama_guard.core.lessons import lessons
from ollama_guard.core.model import (
    ApiReading,
    CatalogueEntry,
    Decision,
    Outcome,
    OutcomeKind,
    Request,
    RunnerReading,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.outcomes import absorb
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import Policy
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.core.runtime import RuntimeReading
from ollama_guard.core.state import Durable, State
from ollama_guard.sentinel import clock
from ollama_guard.sentinel.recorder import Recorder

# Looks per tick: the first, the second, and one more if those two differ; then the next tick decides.
_LOOKS = 3


class Finding(Protocol):
    """One capability of the sensors: a short stable name, whether it is there, and one sentence."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def ok(self) -> bool: ...  # noqa: D102

    @property
    def sentence(self) -> str: ...  # noqa: D102


class Senses(Protocol):
    """Everything that the sentinel reads by itself; see `sentinel.sensors`."""

    def births(self, now: float, *, recovering: bool) -> bool:
        """A cheap look: whether a process was born that could be a runner."""

    def glance(self, now: float) -> Glance:
        """The few numbers that could end a rest."""

    def sense(
        self,
        now: float,
        wall: float,
        api: ApiReading,
        catalogue: tuple[CatalogueEntry, ...],
        requests: tuple[Request, ...],
        hands_alive: bool,  # noqa: FBT001 - one reading among the others
        hands_reason: str,
    ) -> Snapshot:
        """All readings of one tick."""

    def fds(self) -> Mapping[int, int]:
        """PSI triggers and pipes to wait on, each with its epoll mask; they may change with every tick."""

    def on_ready(self, fd: int, events: int) -> None:
        """One of `fds` is ready, and a look is due."""

    def still_the_same(self, pid: int, expected: RunnerReading) -> str:
        """The recheck before a signal: "" or what is different."""

    def still_the_server(self, pid: int, expected: ServerReading) -> str:
        """The same for a server."""

    def capabilities(self) -> Sequence[Finding]:
        """What can and can't be read here, for the self-test."""

    def reconfigure(self, policy: Policy) -> None:
        """Follow a new policy."""

    def close(self) -> None:
        """Let go of every descriptor and child."""


@dataclass(slots=True)
class Told:
    """What `hands` told last."""

    api: ApiReading = field(default_factory=ApiReading)
    catalogue: tuple[CatalogueEntry, ...] = ()
    footprints: Ledger = field(default_factory=Ledger)
    runtimes: tuple[RuntimeReading, ...] = ()
    store: StoreReading = field(default_factory=StoreReading)
    alive: bool = False
    reason: str = ""


class Mind:
    """Owns the policy and the state; everything it knows of judgement is in `core`."""

    def __init__(self, policy: Policy, durable: Durable, senses: Senses) -> None:
        self.policy = policy
        self.state = State(durable=durable)
        self.snapshot: Snapshot | None = None
        self.recorder = Recorder()
        self._senses = senses
        self._narrated = self._learned = self.state

    def think(self, told: Told, requests: tuple[Request, ...]) -> tuple[Decision, list[Event]]:
        """Sense and decide; before a step that needs it twice, and the step stands only if both agree.

        A decision that did not stand is returned without its actions.
        """
        before = self.state
        self.state, decision = self._look(before, told, requests)
        wavered: list[Event] = []
        for look in range(1, _LOOKS + 1):
            if decision.would or not (decision.needs_second_look and decision.actions):
                break
            if look == _LOOKS:
                decision = self._let_go(decision)
                break
            self.state, again = self._look(before, told, requests, again=True)
            agreed, decision, first = again.same_as(decision), again, decision
            if agreed:
                break
            wavered.append(_changed_its_mind(first, again))
        return decision, wavered

    def narrate(self, decision: Decision) -> tuple[Event, ...]:
        """The log events since the last call."""
        assert self.snapshot is not None
        told = events(self._narrated, self.state, decision, self.snapshot)
        self._narrated = self.state
        return told

    def learn(self) -> tuple[Lesson, ...]:
        """What was taught about footprints since the last call."""
        assert self.snapshot is not None
        told = lessons(self._learned, self.state, self.snapshot)
        self._learned = self.state
        return told

    def absorb(self, outcome: Outcome) -> None:
        """Take in how an action ended."""
        self.recorder.absorbed(self.policy, self.state, outcome)
        self.state = absorb(self.policy, self.state, outcome)

    def adopt(self, policy: Policy) -> None:
        """Decide by another policy from now on."""
        self.policy = policy
        self.recorder.adopted(policy)

    def delay_seconds(self) -> float:
        """Seconds until the next full tick, as the last one planned it: what the stall check goes by too."""
        return self.state.planned_delay_seconds

    def look_seconds(self, now: float, *, glancing: bool) -> float:
        """While the guard rests, seconds until the next look at memory, 0.0 if the next tick is due now.

        Else infinite: ticks keep the pace. With ``glancing`` memory is read again, else it is as the last
        tick found it.
        """
        if self.snapshot is None or not pace.resting(self.state):
            return math.inf
        if not glancing:
            return pace.look_seconds(self.policy, self.snapshot, Glance.of(self.snapshot))
        glance = self._senses.glance(now)
        self.recorder.glanced(now, glance)
        return pace.look_seconds(self.policy, self.snapshot, glance)

    def _look(
        self, before: State, told: Told, requests: tuple[Request, ...], *, again: bool = False
    ) -> tuple[State, Decision]:
        sensed = self._senses.sense(
            clock.boottime(), clock.wall(), told.api, told.catalogue, requests, told.alive, told.reason
        )
        self.snapshot = replace(sensed, footprints=told.footprints, runtimes=told.runtimes, store=told.store)
        after, decision = decide(self.policy, before, self.snapshot)
        self.recorder.looked(self.policy, before, self.snapshot, decision, again=again)
        return after, decision

    def _let_go(self, decision: Decision) -> Decision:
        """Looks that never agreed: nothing is done now, and the state knows it."""
        for action in decision.actions:
            self.absorb(
                Outcome(action.id, OutcomeKind.SKIPPED, clock.boottime(), detail="the looks did not agree")
            )
        return replace(decision, actions=())


def _changed_its_mind(first: Decision, second: Decision) -> Event:
    return Event(
        "decision.held",
        f"changed its mind at the second look: {first.reason}; now: {second.reason}",
        Priority.NOTICE,
        {"rung": str(first.rung), "instead": str(second.rung), "domain": first.domain or None},
    )
