"""Hiding models and bringing them back by Ollama's API: which call comes next (facts 5.2).

A move of a name is copy, then proof that the copy has the same digest, then delete; at no moment is a
manifest without a name. Pure: what is known goes in, the next call or the end comes out. Whoever makes the
calls may die between any two of them: what is known begins anew with a list of what is there, and the same
end is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ollama_guard.core import naming

# Times that the list is asked for beyond once for each name; three are needed. A client that brings a name
# back between all of them is the stronger one.
ROUNDS = 6
# Times that the unload is asked for: a request that was past its look-up may load the model once more.
UNLOADS = 5


class Goal(StrEnum):
    """What a plan is for."""

    HIDE = "hide"
    RESTORE = "restore"
    DELETE = "delete"
    """Hide, then save what is needed to get it back, then delete what was hidden."""


class Verb(StrEnum):
    """One call, or one write that must come before the next call."""

    LIST = "list"
    COPY = "copy"
    DELETE = "delete"
    UNLOAD = "unload"
    LOADED = "loaded"
    SAVE = "save"


@dataclass(frozen=True, slots=True)
class Pair:
    """A name that clients ask for, and what it is kept as while hidden; both with their tags."""

    name: str
    alias: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be reached; ``blob`` is the weights' digest where it is known."""

    goal: Goal
    pairs: tuple[Pair, ...]
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """The next thing to do: ``name`` is copied to ``other``, deleted, unloaded, or saved."""

    verb: Verb
    name: str = ""
    other: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: ``error`` is a sentence if it failed, ``missing`` whether the name wasn't there.

    ``digests`` answers a list, ``loaded`` (names and blobs) whether a runner is there.
    """

    error: str = ""
    missing: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class End:
    """How it ended.

    ``moved`` stand where the plan wants them, ``detail`` is what is to be said of that; ``failed`` says why
    the others don't, "" if all do.
    """

    moved: tuple[Pair, ...]
    detail: str
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known since this run began.

    ``digests`` is the last list, by lower-case name; ``copied`` and ``deleted`` are the names that were made
    and taken away since then. ``saved`` are the aliases whose way back is written down. ``loaded`` is whether
    a runner was seen after the last unload. ``failure`` ends the run, ``blemish`` is said beside its success.
    """

    digests: Mapping[str, str] | None = None
    copied: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    saved: frozenset[str] = frozenset()
    rounds: int = 0
    unloads: int = 0
    loaded: bool | None = None
    unsaved: str = ""
    failure: str = ""
    blemish: str = ""


def plan_of(goal: Goal, names: tuple[str, ...], blob: str | None = None) -> tuple[Plan, tuple[str, ...]]:
    """The plan for these names, and those of them that can't be moved (the cloud's, what Ollama refuses)."""
    pairs: dict[str, Pair] = {}
    left_out = []
    for text in names:
        name = naming.parse(text)
        name = naming.original_of(name) if name is not None and name.hidden else name
        alias = naming.alias_of(name) if name is not None else None
        if name is None or alias is None or naming.is_misread(name.shown):
            left_out.append(text)
        else:
            pairs.setdefault(name.shown.lower(), Pair(name.shown, alias.shown))
    return Plan(goal, tuple(pairs.values()), blob), tuple(left_out)


def next_step(plan: Plan, known: Known) -> Call | End:
    """The next call, or the end."""
    if known.failure:
        return End(_moved(plan, known), "", failed=known.failure)
    if known.digests is None:
        return Call(Verb.LIST)
    for pair in plan.pairs:
        source, target = _ends(plan, pair)
        if _has(known, source) and not _has(known, target) and target not in known.copied:
            return Call(Verb.COPY, source, target)
    if known.copied:  # each copy is proven before anything is deleted
        return _look_again(plan, known)
    for pair in plan.pairs:
        source, target = _ends(plan, pair)
        if _has(known, source) and _digest(known, source) == _digest(known, target):
            return Call(Verb.DELETE, source)
    return _look_again(plan, known) if known.deleted else _when_moved(plan, known)


def heard(plan: Plan, known: Known, call: Call, answer: Answer) -> Known:
    """What is known after a call."""
    match call.verb:
        case Verb.LIST:
            digests = {name.lower(): digest for name, digest in answer.digests.items()}
            fresh = replace(known, digests=digests, copied=frozenset(), deleted=frozenset())
            return replace(fresh, rounds=known.rounds + 1, failure=answer.error)
        case Verb.COPY:
            # Without an answer it may still be under way, half written, and a delete beside it could take
            # the blobs away (facts 5.2): so the run ends here, and a later one finds what became of it.
            return replace(known, copied=known.copied | {call.other}, failure=answer.error)
        case Verb.DELETE:
            if answer.error and not answer.missing:
                return replace(known, failure=answer.error)
            return replace(known, deleted=known.deleted | {call.name})
        case Verb.UNLOAD:
            return replace(known, unloads=known.unloads + 1, loaded=None, blemish=answer.error)
        case Verb.LOADED:
            loaded = not answer.error and _is_loaded(plan, answer.loaded)
            return replace(known, loaded=loaded, blemish=answer.error or ("" if loaded else known.blemish))
        case Verb.SAVE:
            saved = known.saved if answer.error else known.saved | {call.name}
            return replace(known, saved=saved, unsaved=answer.error)


def _ends(plan: Plan, pair: Pair) -> tuple[str, str]:
    """From where to where a pair moves."""
    return (pair.alias, pair.name) if plan.goal is Goal.RESTORE else (pair.name, pair.alias)


def _digest(known: Known, name: str) -> str | None:
    return (known.digests or {}).get(name.lower())


def _has(known: Known, name: str) -> bool:
    return _digest(known, name) is not None and name not in known.deleted


def _moved(plan: Plan, known: Known) -> tuple[Pair, ...]:
    """The pairs that stand where they should: under one of their names, or saved and deleted."""
    moved = []
    for pair in plan.pairs:
        source, target = _ends(plan, pair)
        there = _has(known, target) or (plan.goal is Goal.DELETE and pair.alias in known.saved)
        if there and not _has(known, source):
            moved.append(pair)
    return tuple(moved)


def _look_again(plan: Plan, known: Known) -> Call | End:
    if known.rounds < ROUNDS + len(plan.pairs):
        return Call(Verb.LIST)
    moved = _moved(plan, known)
    names = ", ".join(pair.name for pair in plan.pairs if pair not in moved)
    why = "a client brings it back, or Ollama does not do what it answers"
    return End(moved, "", failed=f"{names} is still not as it should be after {known.rounds} looks: {why}")


def _when_moved(plan: Plan, known: Known) -> Call | End:
    """Every move that can be made is made, and proven by the last list."""
    moved = _moved(plan, known)
    kept = [pair for pair in moved if _has(known, pair.alias)]
    if kept and plan.goal is not Goal.RESTORE:
        step = _unload(kept[0], known) or (_save_or_delete(kept, known) if plan.goal is Goal.DELETE else None)
        if step is not None:
            return step
    taken = [pair for pair in plan.pairs if _has(known, pair.name) and _has(known, pair.alias)]
    failed = "; ".join(
        f"{pair.name} is another model now than the one kept as {pair.alias}" for pair in taken
    )
    if not taken and not moved:
        names = ", ".join(pair.name for pair in plan.pairs)
        failed = f"no model named {names} is {'hidden' if plan.goal is Goal.RESTORE else 'installed'}"
    return End(moved, _told(plan, known), failed)


def _unload(pair: Pair, known: Known) -> Call | None:
    """Through the alias, which no new request names; asked again while a runner is seen (facts 5.2)."""
    if known.unloads and known.loaded is None:
        return Call(Verb.LOADED)
    if known.loaded is not False and known.unloads < UNLOADS:
        return Call(Verb.UNLOAD, pair.alias)
    return None


def _save_or_delete(kept: list[Pair], known: Known) -> Call | None:
    """First the way back of every name is written down, then the first of them is deleted."""
    if known.unsaved:
        return None
    unsaved = next((pair for pair in kept if pair.alias not in known.saved), None)
    if unsaved is not None:
        return Call(Verb.SAVE, unsaved.alias, unsaved.name)
    return Call(Verb.DELETE, kept[0].alias)


def _is_loaded(plan: Plan, loaded: frozenset[str]) -> bool:
    ours = {text.lower() for pair in plan.pairs for text in (pair.name, pair.alias)}
    return bool(ours & {text.lower() for text in loaded}) or (plan.blob is not None and plan.blob in loaded)


def _told(plan: Plan, known: Known) -> str:
    """What is to be said beside its being done; "" if nothing is."""
    if plan.goal is Goal.RESTORE:
        return ""
    told = [f"not deleted: {known.unsaved}"] if known.unsaved else []
    if plan.goal is Goal.DELETE and not told:
        told = ["then deleted; what is needed to get it back was saved"]
    if known.loaded:
        told.append("its runner still answers somebody, and goes after that")
    elif known.blemish:
        told.append(f"whether its runner is gone is not known: {known.blemish}")
    return "; ".join(told)
