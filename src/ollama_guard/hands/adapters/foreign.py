"""Values out of foreign documents (JSON, D-Bus): of the type that was asked for, or nothing.

What the adapters share to judge an answer value by value; whatever stands there, nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Nobody foreign counts further than 64 bits; longer numbers break sums and divisions.
_NUMBERS = range(-(2**63), 2**64)


def table(said: object) -> Mapping[str, Any]:
    """An object's members, none for anything else."""
    return said if isinstance(said, Mapping) else {}


def listed(said: object) -> Sequence[Any]:
    """The items of an array, none for anything else."""
    return said if isinstance(said, list | tuple) else ()


def text(said: object) -> str:
    """A string, "" for anything else."""
    return said if isinstance(said, str) else ""


def words(said: object) -> tuple[str, ...]:
    """The strings of an array; a string alone counts as an array of one."""
    return (said,) if isinstance(said, str) else tuple(word for word in listed(said) if isinstance(word, str))


def whole(said: object) -> int | None:
    """A number of 64 bits, None for anything else."""
    return said if type(said) is int and said in _NUMBERS else None


def count(said: object) -> int | None:
    """A number of bytes or the like, None for anything else and below 0."""
    number = whole(said)
    return number if number is not None and number >= 0 else None
