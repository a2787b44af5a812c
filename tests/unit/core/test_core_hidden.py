"""The store is believed, and the book adds what the store can't show."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import hidden
from ollama_guard.core.hidden import Book
from ollama_guard.core.model import CatalogueEntry
from ollama_guard.core.quarantined import Hidden, QuarantineEntry

KEPT = "quarantine.registry.ollama.ai/library/big:7b"
FOUND = QuarantineEntry("big:7b", KEPT, None, Hidden.OFFLINE, 50.0)
NOTED = QuarantineEntry("big:7b", KEPT, "sha256:b", Hidden.API, 10.0, 3, 4, "it can't fit")


def test_what_was_written_down_is_added_to_what_is_found() -> None:
    (entry,) = hidden.together(Book(entries=(NOTED,)), [FOUND], frozenset({"other:1"}))
    assert entry == NOTED


def test_what_is_found_needs_no_book() -> None:
    assert hidden.together(Book(), [FOUND], frozenset()) == (FOUND,)


def test_what_is_written_down_and_not_found_is_not_hidden() -> None:
    """Moved back by hand, or never done."""
    assert hidden.together(Book(entries=(NOTED,)), [], frozenset({"big:7b"})) == ()


def test_a_name_that_is_there_as_well_has_returned() -> None:
    (entry,) = hidden.together(Book(entries=(NOTED,)), [FOUND], frozenset({"big:7b"}))
    assert entry == replace(NOTED, returned=True)


def test_a_deleted_model_is_told_of_until_its_name_is_there_again() -> None:
    deleted = replace(NOTED, how=Hidden.DELETED)
    book = Book(entries=(deleted,))
    assert hidden.together(book, [], frozenset()) == (deleted,)
    assert hidden.together(book, [], frozenset({"big:7b"})) == ()
    assert hidden.together(book, [FOUND], frozenset()) == (FOUND,), "hidden anew after it was pulled"


def test_hidden_models_are_found_among_the_names_that_ollama_lists() -> None:
    catalogue = (CatalogueEntry("sha256:b", ("big:7b",), 3), CatalogueEntry("sha256:c", ("x:1",), 5))
    (entry,) = hidden.among(("x:1", KEPT, "not a name"), catalogue, 99.0)
    assert entry == QuarantineEntry("big:7b", KEPT, "sha256:b", Hidden.API, 99.0, 3)


def test_a_note_replaces_that_of_the_same_alias_and_keeps_the_others() -> None:
    other = replace(NOTED, alias="quarantine.x/y/z:1")
    again = replace(NOTED, reason="again")
    assert hidden.noted(Book(entries=(NOTED, other)), [again]).entries == (other, again)
