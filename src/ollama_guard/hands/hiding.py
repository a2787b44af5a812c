"""The blocking half of quarantine: looks at the store, hides, restores. Runs in one lane, one job at a time.

Offline where manifests can be renamed from here, else by Ollama's API. The book is written before and after,
so that death in between costs no reason; the store itself is what is believed afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ollama_guard.core import hidden, naming
from ollama_guard.core.hidden import Book, WayBack
from ollama_guard.core.model import Action, CatalogueEntry, ServerReading
from ollama_guard.core.quarantine import Goal, Pair, Plan, plan_of
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.errors import OllamaError, StoreFailed
from ollama_guard.hands.adapters.manifests import Manifest, Manifests, Wanted, entry_of, locate
from ollama_guard.hands.api_moves import Limits, carry_out
from ollama_guard.hands.book import BookFile
from ollama_guard.hands.lanes import Clock
from ollama_guard.hands.still_named import by_api, by_manifests, still_meant
from ollama_guard.ports import OllamaPort

# Seconds for one call to a server that may be down or hang, where the model is hidden already and only its
# runner is left to go.
_SOON_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the main loop knows.

    ``names`` is a list of all names that is younger than the catalogue; ``hangs`` is whether the store's disk
    did not answer the last look.
    """

    configured: str = ""
    catalogue: tuple[CatalogueEntry, ...] = ()
    names: tuple[str, ...] | None = None
    servers: tuple[ServerReading, ...] = ()
    hangs: bool = False

    def listed(self) -> tuple[str, ...]:
        """Every name that Ollama told of."""
        if self.names is not None:
            return self.names
        return tuple(name for entry in self.catalogue for name in entry.names)


@dataclass(frozen=True, slots=True)
class _Store:
    """The store as it was found for one job.

    ``why_not`` is why nothing can be renamed in it, or ""; ``manifests`` is what it holds if ``readable``;
    ``lasting`` is whether its folder is there without the server too.
    """

    files: Manifests
    why_not: str = ""
    manifests: tuple[Manifest, ...] = ()
    readable: bool = False
    lasting: bool = False

    def has(self, text: str) -> bool:
        """Whether a manifest of this name is there, in whatever case."""
        name = naming.parse(text)
        return name is not None and any(m.name.folded == name.folded for m in self.manifests)


class Hider:
    """Everything here blocks; nothing of it is called from the main loop."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._book = BookFile(state_dir)
        self._clock = clock

    def look(self, seen: Seen) -> StoreReading:
        """What is hidden now, and whether hiding works while the server is down."""
        book, now = self._book.read(), self._clock()
        store = self._store(seen, book)
        busy, folder = "", store.files.folder
        if store.readable:
            found: Iterable[QuarantineEntry] = filter(None, map(entry_of, store.manifests))
            present = frozenset(m.name.shown.lower() for m in store.manifests if not m.name.hidden)
            busy = store.files.busy()
        elif seen.listed():
            found = hidden.among(seen.listed(), seen.catalogue, time.time())
            present = frozenset(name.lower() for name in seen.listed())
        else:  # neither the store nor Ollama tells: then what was written down
            return StoreReading(folder, not store.why_not, book.entries, "", now, store.why_not)
        entries = hidden.together(book, found, present)
        self._book.note(replace(book, entries=entries, path=folder if store.lasting else book.path))
        return StoreReading(
            folder, not store.why_not, entries, busy, now, store.why_not, readable=store.readable
        )

    def hide(self, action: Action, port: OllamaPort, seen: Seen, limits: Limits, goal: Goal) -> str:
        """Hide (or delete) every name of a model; returns what was done.

        Raises:
            GuardError: it could not be done, or not to its end; a repeat goes on from there.
        """
        book = self._book.read()
        store = self._store(seen, book)
        plan, left_out = plan_of(goal, _names(action, seen, store), action.blob)
        if not plan.pairs:
            told = ", ".join(left_out) or "a model whose names are not known"
            raise StoreFailed(f"{told} can't be hidden: it runs elsewhere, or that is no name of a model")
        plan, alone = _still(plan, store, port, limits)
        how = Hidden.API if store.why_not else Hidden.OFFLINE
        gone = [pair for pair in plan.pairs if _deleted(pair, book, store, seen)]
        noted = (_entry(pair, action, how, seen) for pair in plan.pairs if pair not in gone)
        book = hidden.noted(book, noted)
        self._book.note(replace(book, path=store.files.folder if store.lasting else book.path))
        done = () if store.why_not or gone else self._renamed(plan, store, limits)
        soon = replace(limits, call_seconds=min(limits.call_seconds, _SOON_SECONDS)) if done else limits
        end = carry_out(
            plan, port, soon, self._clock, lambda alias, name: self._save(alias, name, port, store)
        )
        if not end.failed:
            return _told(action, end.moved, f"by {'renaming' if done else 'the API'}", end.detail, alone)
        if done and len(done) == len(_there(plan, store)):
            wish = "it was not deleted" if goal is Goal.DELETE else "its runner was not asked to go"
            return _told(action, done, "by renaming", f"{wish}: {end.failed}", alone)
        if len(gone) == len(plan.pairs) and goal is Goal.DELETE:
            return "deleted before"
        raise StoreFailed(f"{end.failed}{_instead(store)}")

    def restore(self, action: Action, port: OllamaPort, seen: Seen, limits: Limits) -> str:
        """Give hidden names back; returns what was done.

        Raises:
            GuardError: as `hide`; or a name is another model now, or was deleted.
        """
        book = self._book.read()
        store = self._store(seen, book)
        plan, _ = plan_of(Goal.RESTORE, action.names or ((action.model,) if action.model else ()))
        _refuse_deleted(plan, book, store, seen)
        if not store.why_not:
            return _told(action, self._renamed(plan, store, limits), "by renaming")
        end = carry_out(plan, port, limits, self._clock, lambda *_: None)
        if end.failed:
            raise StoreFailed(f"{end.failed}{_instead(store)}")
        return _told(action, end.moved, "by the API")

    def _store(self, seen: Seen, book: Book) -> _Store:
        """The store, found anew for each job: a container may have come or gone."""
        if seen.hangs:
            return _Store(Manifests(""), "the disk that Ollama's models lie on does not answer")
        told = next((entry.models_dir for entry in seen.catalogue if entry.models_dir), "")
        blobs = tuple(entry.blob for entry in seen.catalogue)
        place = locate(Wanted(seen.configured, told, blobs, seen.servers, book.path))
        files = Manifests(place.path)
        if not place.path:
            return _Store(files, place.why_not)
        try:
            return _Store(files, files.unwritable(), files.all(), readable=True, lasting=place.lasting)
        except StoreFailed as problem:
            return _Store(files, str(problem))

    def _renamed(self, plan: Plan, store: _Store, limits: Limits) -> tuple[Pair, ...]:
        """Rename what is there; the first that can't be is raised, after the others were done."""
        done: list[Pair] = []
        problems: list[str] = []
        for pair in _there(plan, store):
            if self._clock() > limits.deadline_at:
                problems.append(f"{pair.name}: its deadline passed; a repeat goes on from there")
                break
            try:
                if plan.goal is Goal.RESTORE:
                    store.files.restore(pair.name)
                else:
                    store.files.hide(pair.name)
                done.append(pair)
            except StoreFailed as problem:
                problems.append(str(problem))
        if not done and not problems:
            state = "hidden" if plan.goal is Goal.RESTORE else "installed"
            problems.append(f"no model named {_titles(plan.pairs)} is {state} in {store.files.folder}")
        if problems:
            raise StoreFailed("; ".join(problems))
        return tuple(done)

    def _save(self, alias: str, name: str, port: OllamaPort, store: _Store) -> None:
        """Write down how a model can be got back, before it is deleted."""
        modelfile = port.modelfile(alias, _SOON_SECONDS)
        digest, manifest = port.digests(_SOON_SECONDS).get(alias, ""), ""
        if store.readable:
            kept = store.files.read(alias)
            digest, manifest = kept.digest, kept.text
        book = self._book.read()
        way = WayBack(name, alias, digest, modelfile, manifest, time.time())
        known = [entry for entry in book.entries if entry.alias.lower() == alias.lower()]
        book = hidden.noted(book, (replace(entry, how=Hidden.DELETED) for entry in known))
        others = tuple(other for other in book.ways_back if other.alias != alias)
        self._book.write(replace(book, ways_back=(*others, way)))


def _names(action: Action, seen: Seen, store: _Store) -> tuple[str, ...]:
    """All names of the action's blob, as far as anybody knows of one (facts 5.2: every alias)."""
    asked = action.names or ((action.model,) if action.model else ())
    blob = action.blob or next((m.blob for m in store.manifests if m.name.shown in asked), None)
    listed = [name for entry in seen.catalogue if blob and entry.blob == blob for name in entry.names]
    there = [m.name.shown for m in store.manifests if blob and m.blob == blob]
    return tuple(dict.fromkeys((*asked, *listed, *there)))


def _still(plan: Plan, store: _Store, port: OllamaPort, limits: Limits) -> tuple[Plan, str]:
    """The plan for the names that mean this model now, and a word about the others."""
    if plan.blob is None:
        return plan, ""
    try:
        blobs = by_manifests(store.manifests) if store.readable else by_api(port, limits.call_seconds)
    except OllamaError as problem:
        raise StoreFailed(f"{problem}{_instead(store)}") from problem
    plan, others = still_meant(plan, blobs)
    alone = f"{', '.join(others)} left alone: not that model any more" if others else ""
    if not plan.pairs:
        raise StoreFailed(alone)
    return plan, alone


def _there(plan: Plan, store: _Store) -> list[Pair]:
    """The pairs of which the store holds anything."""
    return [pair for pair in plan.pairs if store.has(pair.name) or store.has(pair.alias)]


def _entry(pair: Pair, action: Action, how: Hidden, seen: Seen) -> QuarantineEntry:
    size = next((entry.size_bytes for entry in seen.catalogue if entry.blob == action.blob), None)
    return QuarantineEntry(
        pair.name, pair.alias, action.blob, how, time.time(), size, action.needs_bytes, action.reason
    )


def _told(action: Action, moved: Iterable[Pair], *parts: str) -> str:
    """What was done, for a sentence that begins with the action's names: the others, and how."""
    asked = {name.lower() for name in action.names}
    others = [
        pair.name for pair in moved if pair.name.lower() not in asked and pair.alias.lower() not in asked
    ]
    beside = [f"with {', '.join(others)}"] if others else []
    return "; ".join([*beside, *filter(None, parts)])


def _titles(pairs: Iterable[Pair]) -> str:
    return " = ".join(pair.name for pair in pairs)


def _instead(store: _Store) -> str:
    """Why it was not done by renaming, to be told beside why the API could not."""
    return f" (not by renaming: {store.why_not})" if store.why_not else ""


def _deleted(pair: Pair, book: Book, store: _Store, seen: Seen) -> bool:
    """Whether it was deleted, and nobody has brought it back since."""
    listed = {name.lower() for name in seen.listed()}
    kept = {entry.alias.lower() for entry in book.entries if entry.how is Hidden.DELETED}
    there = any(store.has(text) or text.lower() in listed for text in (pair.name, pair.alias))
    return pair.alias.lower() in kept and not there


def _refuse_deleted(plan: Plan, book: Book, store: _Store, seen: Seen) -> None:
    for pair in plan.pairs:
        if _deleted(pair, book, store, seen):
            raise StoreFailed(
                f"{pair.name} was deleted, as the configuration says: `ollama pull {pair.name}` brings it "
                "back; its Modelfile and digest are in quarantine.json in the guard's state directory"
            )
