"""Any JSON at all, and recorded JSON with one value replaced, for the judges of foreign answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from hypothesis import strategies as st

from ollama_guard.core.codec import from_plain, to_plain

HEX = "8f5e8fdf611cdf802e28bc82e65705ddb79c526a7afefb7ebda4064865bf572f"
ODD = (
    "x", "", "\ud800", "\x00", "9" * 5000, 0, -1, 2**63, 2**70, 2**4000, 1e308, -1e308, float("nan"),
    float("inf"), True, "2026-02-30T00:00:00Z", "9999-12-31T23:59:59.999999999-23:59",
    "0001-01-01T00:00:00+23:59",
)  # fmt: skip


def json_of(keys: Sequence[str], odd: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Any JSON value; objects often have these keys, and odd values stand anywhere."""
    names = st.sampled_from(keys) | st.text(max_size=20)
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(
        plain | st.sampled_from((*ODD, *odd)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
        max_leaves=25,
    )


def one_replaced(recorded: Any, odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The recorded value with the value at any one place replaced."""
    places = st.sampled_from(list(_places(recorded)))
    return st.builds(lambda at, new: _replaced(recorded, at, new), places, odd)


def keys_of(value: Any) -> list[str]:
    """Every key anywhere in a JSON value."""
    if isinstance(value, dict):
        return sorted({*value, *(key for inner in value.values() for key in keys_of(inner))})
    return sorted({key for inner in value for key in keys_of(inner)}) if isinstance(value, list) else []


def assert_well_typed(value: object) -> None:
    """Every field is of the type that it is declared with, and goes over the wire and back."""
    if isinstance(value, tuple | frozenset):
        for part in value:
            assert_well_typed(part)
    elif is_dataclass(value):
        sent = json.dumps(to_plain(value), allow_nan=False)
        assert from_plain(type(value), json.loads(sent)) == value
    else:
        assert value is None or isinstance(value, str)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value, itself included."""
    yield at
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from _places(value[key], (*at, key))


def _replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with the value at one place replaced."""
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = _replaced(value[at[0]], at[1:], new)
    return copy
