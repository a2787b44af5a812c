"""A model name that is not installed: which ones are like it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ollama_guard.core.events import one_line

# How alike two names must be (0..1), and how many are told: difflib's own cutoff, and what fits on a line.
ALIKE = 0.6
TOLD = 3
# Characters of a name that are compared: no model in anybody's library is longer, and the cost grows with it.
COMPARED = 100


def names_of(document: Mapping[str, Any]) -> list[str]:
    """Every name in the document of ``models`` (`core.installed`)."""
    return [name for row in document["models"] if row["name"] for name in (row["name"], *row["aliases"])]


def nearest(model: str, names: Iterable[str]) -> list[str]:
    """The installed names that are most like ``model``: first the same one with other tags."""
    import difflib

    wanted = _said(model)
    by_text = {_said(name): name for name in sorted(set(names))}
    family = [name for text, name in by_text.items() if text.partition(":")[0] == wanted.partition(":")[0]]
    alike = difflib.get_close_matches(wanted, by_text, TOLD, ALIKE)
    return list(dict.fromkeys((*family, *(by_text[text] for text in alike))))[:TOLD]


def _said(name: str) -> str:
    """A name as people say it: the tag that all have says nothing of how alike two are."""
    return name.strip().lower()[:COMPARED].removesuffix(":latest")


def unknown_model(model: str, names: Iterable[str]) -> str:
    """``no model named 'lama3' is installed; did you mean llama3:8b?``."""
    known = list(names)
    sentence = f"no model named {model!r} is installed"
    alike = nearest(model, known)
    if alike:
        return one_line(f"{sentence}; did you mean {' or '.join(alike)}?")
    return one_line(sentence if known else f"{sentence}: Ollama has told of none")
