"""What is known of hidden models beyond what the store itself shows, and how the two are put together.

The store is the truth: which names are hidden is read from it alone, so that a lost book loses nothing but
reasons, and a `mv` by hand needs nobody's leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ollama_guard.core import naming
from ollama_guard.core.model import CatalogueEntry
from ollama_guard.core.quarantined import Hidden, QuarantineEntry


@dataclass(frozen=True, slots=True)
class WayBack:
    """What is needed to get a deleted model back: its Modelfile, and its manifest where it could be read."""

    name: str
    alias: str
    digest: str
    modelfile: str
    manifest: str
    at: float


@dataclass(frozen=True, slots=True)
class Book:
    """What is written down: ``path`` is where the models folder was found last."""

    version: int = 1
    path: str = ""
    entries: tuple[QuarantineEntry, ...] = ()
    ways_back: tuple[WayBack, ...] = ()


def among(
    names: Iterable[str], catalogue: Iterable[CatalogueEntry], wall: float
) -> tuple[QuarantineEntry, ...]:
    """The hidden models among the names that Ollama lists; hidden since ``wall`` where nothing else tells.

    ``catalogue`` may be older than the list: a model is known in it by what it is kept as, or was called.
    """
    known = {text.lower(): entry for entry in catalogue for text in entry.names}
    found = []
    for text in names:
        alias = naming.parse(text)
        name = naming.original_of(alias) if alias is not None else None
        if alias is None or name is None:
            continue
        entry = known.get(alias.shown.lower()) or known.get(name.shown.lower())
        blob, size = (entry.blob, entry.size_bytes) if entry is not None else (None, None)
        found.append(QuarantineEntry(name.shown, alias.shown, blob, Hidden.API, wall, size_bytes=size))
    return tuple(found)


def together(
    book: Book, found: Iterable[QuarantineEntry], present: frozenset[str]
) -> tuple[QuarantineEntry, ...]:
    """Every hidden model: as it was found, with what was written down of it.

    ``present`` holds all names that clients can ask for, in lower case. A deleted model is told of until its
    name is there again.
    """
    known = {entry.alias.lower(): entry for entry in book.entries}
    entries = [_with(seen, known.get(seen.alias.lower()), present) for seen in found]
    listed = {entry.alias.lower() for entry in entries}
    entries += [
        entry
        for entry in book.entries
        if entry.how is Hidden.DELETED
        and entry.alias.lower() not in listed
        and entry.name.lower() not in present
    ]
    return tuple(sorted(entries, key=lambda entry: (entry.since, entry.name)))


def _with(seen: QuarantineEntry, known: QuarantineEntry | None, present: frozenset[str]) -> QuarantineEntry:
    returned = seen.name.lower() in present
    if known is None or known.how is Hidden.DELETED:
        return replace(seen, returned=returned)
    return replace(
        seen,
        how=known.how,
        since=known.since,
        blob=seen.blob or known.blob,
        size_bytes=known.size_bytes if seen.size_bytes is None else seen.size_bytes,
        needs_bytes=known.needs_bytes,
        reason=known.reason,
        returned=returned,
    )


def noted(book: Book, entries: Iterable[QuarantineEntry]) -> Book:
    """The book with these entries in the place of those of the same alias."""
    new = {entry.alias.lower(): entry for entry in entries}
    kept = tuple(entry for entry in book.entries if entry.alias.lower() not in new)
    return replace(book, entries=(*kept, *new.values()))
