"""Recorded traces: every input of `decide` and `absorb`, in order, one JSON object a line.

Written by `scribe`, read by `Reader`. A *header* holds the whole policy and state, so that what follows
replays without anything before it; every file starts with one, and so does what follows a gap. A *look*
is a snapshot as its difference from the last look, with what was decided on it where that differs from
the last; with ``again`` it is one more look of the same tick, from the same state. Besides these there
are outcomes, new policies, and the glances of a rest, which no decision depends on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from ollama_guard.core.codec import CodecError, from_plain, with_plain
from ollama_guard.core.events import one_line
from ollama_guard.core.model import Action, Decision, Outcome, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import State

MARK = "ollama-guard"
FORMAT = 1
_FIRST_WORDS = b'{"trace":"ollama-guard",'
# What a header follows: nothing, another file without anything lost between, or lost records.
START, FILE, GAP = "start", "file", "gap"

# Fields of a snapshot that are told element by element while their number stays the same.
BY_ELEMENT = ("domains", "servers", "runners")
# What the first look after a header is told against.
EMPTY = Snapshot(now=0.0, wall=0.0)


class TraceError(ValueError):
    """What is no trace, or none that can be replayed here: one sentence."""


@dataclass(frozen=True, slots=True)
class Header:
    """Where a replay can start: ``state`` is the one before the next record; ``wall`` is for people.

    ``why`` is one of `START`, `FILE`, `GAP`; ``lost`` counts the records that are missing before it.
    """

    guard: str
    boot: str
    wall: float
    why: str
    lost: int
    policy: Policy
    state: State


@dataclass(frozen=True, slots=True)
class Look:
    """One call of `decide` and what it decided; a ``decision`` as before has the times of then."""

    snapshot: Snapshot
    decision: Decision
    again: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """One call of `absorb`."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Adopted:
    """The policy from here on."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class Glanced:
    """A glance between two looks: no input of the brain, but what memory was then, each domain by name."""

    at: float
    available_bytes: Mapping[str, int | None]


Entry = Header | Look | Ended | Adopted | Glanced


def same(one: Decision, other: Decision) -> bool:
    """Whether two decisions are equal in every word and number but their times, deadlines among them."""
    return (
        one.reason == other.reason
        and one.rung is other.rung
        and one.level is other.level
        and one.domain == other.domain
        and one.would is other.would
        and one.disruptive is other.disruptive
        and one.replies == other.replies
        and _timeless(one.actions) == _timeless(other.actions)
    )


def _timeless(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    return tuple(replace(action, deadline_at=0.0) for action in actions)


class Reader:
    """Reads one trace. After the last entry ``cut_off`` is the length of a last line that is broken, or 0."""

    def __init__(self) -> None:
        self.cut_off = 0
        self.line = 0
        self._last = EMPTY
        self._decision: Decision | None = None

    def read(self, lines: Iterable[bytes]) -> Iterator[Entry]:
        """The entries of a file, given as lines with their line feeds; `line` is the present one's number.

        A last line that is broken (its writer was killed, the power went) is left out.

        Raises:
            TraceError: no trace, one of another format, or a broken line that is not the last.
        """
        held: bytes | None = None
        for line in lines:
            if held is not None:
                yield self._entry(held)
            held = line
        if held is None:
            raise TraceError("it is empty; a trace has at least its header")
        ours = self.line > 0 or held.startswith(_FIRST_WORDS)
        if ours and not (held.endswith(b"\n") and _is_json(held)):
            self.cut_off = len(held)
            return
        yield self._entry(held)

    def _entry(self, line: bytes) -> Entry:
        self.line += 1
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if self.line == 1 or (isinstance(record, dict) and "trace" in record):
            _check_mark(record)
        if not isinstance(record, dict):
            raise TraceError(f"line {self.line} is broken: it is no JSON object")
        try:
            return self._built(record)
        except (CodecError, RecursionError) as problem:
            what = one_line(str(problem), 300)
            raise TraceError(f"line {self.line} can't be replayed by this version: {what}") from None

    def _built(self, record: dict[str, Any]) -> Entry:
        if "trace" in record:
            self._last, self._decision = EMPTY, None
            body = {key: value for key, value in record.items() if key not in ("trace", "format")}
            body["policy"] = _of_its_time(body.get("policy"))
            return from_plain(Header, body)
        if "outcome" in record:
            return from_plain(Ended, record)
        if "policy" in record:
            return from_plain(Adopted, {**record, "policy": _of_its_time(record["policy"])})
        if "glance" in record:
            return from_plain(Glanced, record["glance"])
        decision = self._decision
        if "decision" in record or decision is None:
            decision = from_plain(Decision, record.pop("decision", None), "decision")
        again = record.pop("again", False) is True
        patched: dict[str, Any] = {}
        for name in list(record):
            last = getattr(self._last, name, None)
            if is_dataclass(last):
                patched[name] = _amended(last, record.pop(name), name)
            elif name in BY_ELEMENT and isinstance(record[name], dict):
                patched[name] = _patched(getattr(self._last, name), record.pop(name), name)
        self._last, self._decision = replace(with_plain(self._last, record), **patched), decision
        return Look(self._last, decision, again)


def _of_its_time(policy: Any) -> Any:
    """A recorded policy: what its guard had no word for yet, it did not do."""
    return {"governor": {"enabled": False}, **policy} if isinstance(policy, dict) else policy


def _amended(reading: Any, changes: Any, name: str) -> Any:
    """A reading with some fields told anew: of a mapping those entries, with null for one that is gone."""
    if not isinstance(changes, dict):
        raise CodecError(name, "expected an object")
    maps = {
        key: item
        for key, item in changes.items()
        if isinstance(item, dict) and isinstance(getattr(reading, key, None), Mapping)
    }
    there = {key: {k: v for k, v in item.items() if v is not None} for key, item in maps.items()}
    built = with_plain(reading, changes | there, name)
    whole = {key: {**getattr(reading, key), **getattr(built, key)} for key in maps}
    gone = {key: {k for k, v in item.items() if v is None} for key, item in maps.items()}
    return replace(
        built, **{key: {k: v for k, v in whole[key].items() if k not in gone[key]} for key in maps}
    )


def _patched(elements: tuple[Any, ...], changes: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Readings with the changes of some of them, by their place in the list."""
    places = {str(place): place for place in range(len(elements))}
    patched = list(elements)
    for key, change in changes.items():
        if key not in places:
            raise CodecError(f"{name}.{key[:20]}", f"there are {len(elements)} of them")
        patched[places[key]] = with_plain(elements[places[key]], change, f"{name}.{key}")
    return tuple(patched)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _check_mark(record: object) -> None:
    """Refuse what is no header of this format."""
    if not isinstance(record, dict) or record.get("trace") != MARK:
        raise TraceError("it is no trace of ollama-guard: its first line is no header")
    if record.get("format") != FORMAT:
        form, guard = (one_line(str(record.get(key)), 40) for key in ("format", "guard"))
        raise TraceError(
            f"it is a trace of format {form}, written by ollama-guard {guard}; this version replays format "
            f"{FORMAT} only"
        )
