"""Names as Ollama takes them apart, and what a hidden model is kept as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core import naming

FIRST = "abcXYZ019_"
PARTS = st.text(f"{FIRST}.-", min_size=0, max_size=20).flatmap(
    lambda rest: st.sampled_from(FIRST).map(lambda first: first + rest)
)
NAMESPACES = PARTS.map(lambda part: part.replace(".", "_"))
NAMES = st.builds(naming.Name, st.one_of(st.just(naming.DEFAULT_HOST), PARTS), NAMESPACES, PARTS, PARTS)


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("big", ("registry.ollama.ai", "library", "big", "latest")),
        ("big:7b", ("registry.ollama.ai", "library", "big", "7b")),
        ("me/big:7b", ("registry.ollama.ai", "me", "big", "7b")),
        ("hf.co/me/big.GGUF:Q4_K_M", ("hf.co", "me", "big.GGUF", "Q4_K_M")),
        ("localhost:5000/me/big", ("localhost:5000", "me", "big", "latest")),
    ],
)
def test_what_is_left_out_of_a_name_is_what_ollama_puts_there(
    said: str, parts: tuple[str, str, str, str]
) -> None:
    name = naming.parse(said)
    assert name is not None
    assert name.parts == parts


@pytest.mark.parametrize(
    "said", ["", ":", "a:", ":b", "a/b/c/d:e", "../x", "a/../b", "-x", ".x", "a.b/c/d.e/f", "a b", "x:y:z",
             "a.b/x:1", "a\n", "x" * 81, "h" * 351 + "/a/b:c", "\u00e9:latest"],
)  # fmt: skip
def test_a_name_that_ollama_would_refuse_is_none(said: str) -> None:
    assert naming.parse(said) is None


@given(NAMES)
def test_every_name_comes_back_from_what_it_is_kept_as(name: naming.Name) -> None:
    alias = naming.alias_of(name)
    if alias is None:
        assert name.hidden
        return
    assert alias.hidden
    assert naming.original_of(alias) == name
    assert naming.parse(alias.shown) == alias
    assert (alias.model, alias.tag) == (name.model, name.tag)


@given(NAMES)
def test_a_name_is_read_again_as_it_is_shown(name: naming.Name) -> None:
    assert naming.parse(name.shown) == name


def test_nothing_is_hidden_twice() -> None:
    alias = naming.parse("quarantine.registry.ollama.ai/library/big:7b")
    assert alias is not None
    assert naming.alias_of(alias) is None


def test_a_host_as_long_as_ollama_allows_has_no_room_for_the_prefix() -> None:
    longest = naming.parse(f"{'h' * 350}/me/big:7b")
    assert longest is not None
    assert naming.alias_of(longest) is None


@pytest.mark.parametrize("said", ["far:cloud", "far:7b-Cloud", "near:local"])
def test_a_name_whose_end_means_a_place_is_told(said: str) -> None:
    assert naming.is_misread(said)
    assert not naming.is_misread(said + "s")
