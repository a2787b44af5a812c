"""A recorded trace decided again: with its own policy the same, exactly; with another, where it differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, assert_never

from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.events import one_line
from ollama_guard.core.model import Action, ActionKind, Decision, Level, Outcome, Rung
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import State
from ollama_guard.core.trace import (
    FILE,
    GAP,
    Adopted,
    Ended,
    Entry,
    Glanced,
    Header,
    Look,
    Reader,
    TraceError,
    same,
)

# Whom an action is about: kind, blob, and the runner's pid and start time.
Target = tuple[ActionKind, str | None, tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class Moment:
    """One decision, as ``recorded`` and as ``replayed``; ``wall`` in epoch seconds, ``line`` of its file."""

    line: int
    wall: float
    recorded: Decision
    replayed: Decision

    @property
    def same(self) -> bool:
        """Whether both are equal, in every word and number."""
        return same(self.recorded, self.replayed)

    @property
    def alike(self) -> bool:
        """Whether both come to the same: level, rung, and whose model is acted on."""
        return substance(self.recorded) == substance(self.replayed)

    @property
    def acts_alike(self) -> bool:
        """Whether the same would have been done."""
        return _done(self.recorded) == _done(self.replayed)


def substance(decision: Decision) -> tuple[Any, ...]:
    """What matters of a decision besides its wording and its numbers."""
    targets = frozenset(_target(action) for action in decision.actions)
    return decision.level, decision.rung, decision.would, targets


def _done(decision: Decision) -> frozenset[Target]:
    return frozenset() if decision.would else frozenset(_target(action) for action in decision.actions)


def _target(action: Action) -> Target:
    return action.kind, action.blob, action.key


class Replay:
    """Takes the entries of one trace, or of several that follow each other.

    With a policy of its own it decides by that one throughout, and keeps its own state where a file
    continues another. Then an outcome counts for the action on the same target, if there is one.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._own = policy
        self._policy = policy or Policy()
        self._state = self._before = State()
        self._started = False
        self._wall = 0.0
        self._recorded: dict[int, Target] = {}

    def feed(self, entry: Entry, line: int = 0) -> Moment | None:
        """Take the next entry; a look gives its moment."""
        match entry:
            case Header():
                return self._begin(entry, line)
            case Look():
                return self._look(entry, line)
            case Ended(outcome):
                self._end(outcome)
            case Adopted(policy):
                self._policy = self._own or policy
            case Glanced():
                pass
            case _:
                assert_never(entry)
        return None

    def _begin(self, header: Header, line: int) -> Moment | None:
        continued = header.why == FILE and self._started
        if continued and self._own is not None:
            return None
        strayed = continued and self._state != header.state
        self._policy = self._own or header.policy
        self._recorded = {action.id: _target(action) for action in header.state.in_flight}
        self._state = self._before = header.state
        self._started = True
        return Moment(line, header.wall, _SAME_STATE, _OTHER_STATE) if strayed else None

    def _look(self, look: Look, line: int) -> Moment:
        if not look.again:
            self._before = self._state
        self._state, decision = decide(self._policy, self._before, look.snapshot)
        if self._own is not None and not look.decision.would:
            self._recorded |= {action.id: _target(action) for action in look.decision.actions}
        return Moment(line, look.snapshot.wall, look.decision, decision)

    def _end(self, outcome: Outcome) -> None:
        if self._own is not None:
            target = self._recorded.pop(outcome.action_id, None)
            own = next((a.id for a in self._state.in_flight if _target(a) == target), None)
            if own is None:
                return  # the world answered what this policy did not do
            outcome = replace(outcome, action_id=own)
        self._state = absorb(self._policy, self._state, outcome)


# Told where a file continues another and the replay of that one did not end in the recorded state.
_SAME_STATE = Decision(0.0, 0.0, Level.OK, Rung.NONE, "the state that was recorded")
_OTHER_STATE = replace(_SAME_STATE, reason="another state than was recorded")


@dataclass(slots=True)
class Span:
    """Decisions in a row that differ in the same way: the first of them, and when the last was."""

    first: Moment
    until_wall: float
    count: int = 1


class Comparison:
    """Traces decided again, one after the other, and where that differs from what was recorded.

    ``first`` is the first moment that was not the same, in the trace ``first_in``. ``spans`` tell where the
    substance differed. ``acts_wall`` is when the actions first did: from then on the recorded world is not
    what would have been. ``guards`` are the versions that recorded, ``gaps`` and ``lost`` what they could
    not keep; ``cut_off`` has the traces whose last line is broken, with its length.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._replay = Replay(policy)
        self.decisions = 0
        self.unlike = 0
        self.first: Moment | None = None
        self.first_in = ""
        self.spans: list[Span] = []
        self.acts_wall: float | None = None
        self.guards: list[str] = []
        self.gaps = 0
        self.lost = 0
        self.cut_off: dict[str, int] = {}
        self._open = False

    def read(self, name: str, lines: Iterable[bytes]) -> Iterator[Moment]:
        """Take the next trace, given as its lines; yields each moment once it is counted.

        Raises:
            TraceError: it can't be replayed (any further).
        """
        reader = Reader()
        for entry in reader.read(lines):
            if isinstance(entry, Header):
                self._note(entry)
            try:
                moment = self._replay.feed(entry, reader.line)
            except (ArithmeticError, LookupError, ValueError) as problem:  # no guard wrote such numbers
                what = f"line {reader.line} can't be decided on: {type(problem).__name__}: {problem}"
                raise TraceError(one_line(what, 300)) from problem
            if moment is not None:
                self._count(name, moment)
                yield moment
        if reader.cut_off:
            self.cut_off[name] = reader.cut_off

    def _note(self, header: Header) -> None:
        if header.guard not in self.guards:
            self.guards.append(header.guard)
        self.gaps += header.why == GAP
        self.lost += header.lost

    def _count(self, name: str, moment: Moment) -> None:
        self.decisions += 1
        if self.first is None and not moment.same:
            self.first, self.first_in = moment, name
        if self.acts_wall is None and not moment.acts_alike:
            self.acts_wall = moment.wall
        if moment.alike:
            self._open = False
            return
        self.unlike += 1
        if self._open and _pair(moment) == _pair(self.spans[-1].first):
            self.spans[-1].until_wall = moment.wall
            self.spans[-1].count += 1
        else:
            self.spans.append(Span(moment, moment.wall))
        self._open = True


def _pair(moment: Moment) -> tuple[Any, ...]:
    return substance(moment.recorded), substance(moment.replayed)
