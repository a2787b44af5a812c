"""Writes what `trace` reads: what happens, as lines that tell what is new and nothing twice.

Purpose-made and not the codec, since it runs in every tick: a field that did not change costs a
comparison.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any

from ollama_guard.core.codec import to_plain
from ollama_guard.core.model import Decision, Outcome, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.trace import BY_ELEMENT, EMPTY, FORMAT, MARK, Header, same

_ALWAYS = ("at", "wall", "level", "rung", "reason")
_as_json = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode


class Scribe:
    """Turns what happens into lines, each without its line feed; remembers what it told last.

    Each method raises ValueError for what JSON can't hold (a number that is not finite); then the next
    line has to be a header.
    """

    def __init__(self) -> None:
        self._last = EMPTY
        self._decision: Decision | None = None

    def header(self, header: Header) -> str:
        """A new start: the next look is told in full."""
        self._last, self._decision = EMPTY, None
        header = replace(header, policy=header.policy.without_secrets())
        body = {field.name: to_plain(getattr(header, field.name)) for field in fields(Header)}
        return _as_json({"trace": MARK, "format": FORMAT, **body})

    def look(self, snapshot: Snapshot, decision: Decision, *, again: bool) -> str:
        """One call of `decide`."""
        record: dict[str, Any] = {"now": snapshot.now, "wall": snapshot.wall}
        if again:
            record["again"] = True
        last = self._last
        for name in _names(Snapshot):
            old, new = getattr(last, name), getattr(snapshot, name)
            if old is not new and old != new and name not in record:
                record[name] = _difference(name, old, new)
        if self._decision is None or not same(decision, self._decision):
            record["decision"] = _short(decision)
        line = _as_json(record)
        self._last, self._decision = snapshot, decision
        return line

    def ended(self, outcome: Outcome) -> str:
        """One call of `absorb`."""
        return _as_json({"outcome": to_plain(outcome)})

    def glanced(self, at: float, available_bytes: Mapping[str, int | None]) -> str:
        """What a glance saw of memory."""
        return _as_json({"glance": {"at": at, "available_bytes": available_bytes}})

    def adopted(self, policy: Policy) -> str:
        """Another policy from here on."""
        return _as_json({"policy": to_plain(policy.without_secrets())})


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _values(kind: Any) -> attrgetter[tuple[Any, ...]]:
    return attrgetter(*_names(kind))


def _short(decision: Decision) -> dict[str, Any]:
    """A decision as plain JSON without what is empty."""
    told: dict[str, Any] = to_plain(decision)
    kept = {key: item for key, item in told.items() if key in _ALWAYS or item}
    if decision.actions:
        kept["actions"] = [{k: item for k, item in a.items() if item is not None} for a in told["actions"]]
    return kept


def _difference(name: str, old: Any, new: Any) -> Any:
    """One field of a snapshot: an object of changes where as many things are told of, else the whole."""
    if is_dataclass(new):
        return _changes(old, new)
    if name in BY_ELEMENT and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return {str(i): _changes(a, b) for i, (a, b) in pairs if a is not b and a != b}
    return _plain(new)


def _entries(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a mapping that differ from another; null for one that is gone."""
    changed = {key: _plain(item) for key, item in new.items() if key not in old or old[key] != item}
    return changed | {key: None for key in old if key not in new}


def _plain(reading: Any) -> Any:
    """As the codec's `to_plain`, but a number that is not finite stays one, so that JSON refuses it."""
    if isinstance(reading, tuple):
        return [_plain(item) for item in reading]
    if is_dataclass(reading):
        kind: Any = type(reading)
        return {name: _plain(getattr(reading, name)) for name in _names(kind)}
    return {key: _plain(item) for key, item in reading.items()} if isinstance(reading, Mapping) else reading


def _changes(old: Any, new: Any) -> dict[str, Any]:
    """The fields of a reading that differ from another of its kind."""
    kind: Any = type(new)
    values = _values(kind)
    return {
        name: _entries(a, b) if isinstance(b, Mapping) else _plain(b)
        for name, a, b in zip(_names(kind), values(old), values(new), strict=True)
        if a is not b and a != b
    }
