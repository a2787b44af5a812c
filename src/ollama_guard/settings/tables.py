"""What every table of the file has in common.

Each key has its text for the owner as a string below it, each table in its docstring: ``make docs`` makes the
shipped file, the reference and the man page from them, and at run time they cost nothing. They are read in
a comment of TOML, in Markdown and on paper: paragraphs, items (``* ``) and `code`, no other markup.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from ollama_guard.settings.values import Check


class Table(BaseModel):
    """A table of the file: nothing unknown in it, nothing converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def named(key: str, sentence: str, *, at: tuple[str, ...] = ()) -> PydanticCustomError:
    """A problem of one key of a table, found when looking at several together; ``at`` is where it stands."""
    return PydanticCustomError("together", "{sentence}", {"path": (*at, key), "sentence": sentence})


def short_form(key: str, allowed: str) -> Check:
    """Anything but a table stands for a table with that one key."""
    return Check(lambda value: value if isinstance(value, (dict, Table)) else {key: value}, allowed=allowed)
