"""Which model serves a request, given what the guard allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.integrations.routing import (
    NoTierAllowed,
    Route,
    Rung,
    ladder_of,
    model_of,
    ollama_name,
    routed,
)  # fmt: skip

NAMES = ("small", "middle", "large", "huge")


def ladder(allowed: str) -> tuple[Rung, ...]:
    """From small to large: 1 is allowed, 0 is not."""
    return tuple(
        Rung(name, f"{name}:1b", may == "1", "" if may == "1" else f"{name} does not fit")
        for name, may in zip(NAMES, allowed, strict=False)
    )


def rows(*names: str) -> list[dict[str, object]]:
    return [{"model_name": f"gpt-{n}", "litellm_params": {"model": f"ollama_chat/{n}:1b"}} for n in names]


ALL = rows(*NAMES)


@pytest.mark.parametrize(
    ("asked", "allowed", "route"),
    [
        ("gpt-large", "1111", Route("gpt-large", "large", ("gpt-middle", "gpt-small", "gpt-huge"))),
        ("gpt-large", "1110", Route("gpt-large", "large", ("gpt-middle", "gpt-small"))),
        ("gpt-huge", "1100", Route("gpt-middle", "middle", ("gpt-small",))),
        ("gpt-huge", "1000", Route("gpt-small", "small", ())),
        ("gpt-small", "1111", Route("gpt-small", "small", ("gpt-middle",))),
        ("gpt-small", "1011", Route("gpt-small", "small", ())),
        ("gpt-small", "0111", Route("gpt-middle", "middle", ())),
        ("gpt-huge", "1010", Route("gpt-large", "large", ("gpt-small",))),
    ],
)
def test_a_request_goes_down_to_what_is_allowed_and_one_step_up_where_that_fails(
    asked: str, allowed: str, route: Route
) -> None:
    assert routed(asked, ladder(allowed), ALL) == route


@pytest.mark.parametrize("allowed", ["0000", "0011"])
def test_where_nothing_near_is_allowed_the_refusal_says_why_and_when_to_come_back(
    allowed: str,
) -> None:
    with pytest.raises(NoTierAllowed) as found:
        routed("gpt-small", ladder(allowed), ALL)
    refusal = found.value
    assert (refusal.status_code, refusal.headers) == (503, {"Retry-After": "10"})
    assert "small does not fit" in refusal.message
    assert str(refusal) == refusal.message


def test_what_names_no_tier_is_left_alone() -> None:
    assert routed("hosted", ladder("00"), ALL) is None
    assert routed("gpt-huge", ladder("11"), ALL) is None  # its model is no tier of this guard


def test_a_tier_that_litellm_does_not_serve_is_passed_over() -> None:
    served = rows("small", "large")
    assert routed("gpt-large", ladder("110"), served) == Route("gpt-small", "small", ())
    assert routed("gpt-small", ladder("111"), served) == Route("gpt-small", "small", ())


def test_of_two_names_for_one_tier_the_one_that_was_asked_for_stays() -> None:
    served = [*ALL, {"model_name": "other", "litellm_params": {"model": "ollama/large:1b"}}]
    assert routed("other", ladder("111"), served) == Route("other", "large", ("gpt-middle", "gpt-small"))


@pytest.mark.parametrize(
    ("litellm", "ollama"),
    [
        ("ollama_chat/smollm:135m", "smollm:135m"),
        ("ollama/TinyLlama", "tinyllama:latest"),
        ("openai/hf.co/x/y:q4", "hf.co/x/y:q4"),
        ("ollama_chat/host:5000/x/y", "host:5000/x/y:latest"),
        (None, ":latest"),
    ],
)
def test_litellms_name_of_a_model_is_ollamas_without_the_provider(litellm: object, ollama: str) -> None:
    assert ollama_name(litellm) == ollama


def test_what_is_no_row_of_models_is_no_model_of_ours() -> None:
    for odd in (None, 7, {}, {"litellm_params": 3}, {"litellm_params": {}}):
        assert model_of(odd) == ":latest"


def test_the_ladder_is_read_from_a_status_and_what_is_unknown_is_allowed() -> None:
    document = {
        "tiers": [
            {"name": "light", "model": "a:1", "allowed": None, "reason": None},
            {"name": "default", "model": "b:1", "allowed": False, "reason": "memory"},
        ]
    }
    assert ladder_of(document) == (
        Rung("light", "a:1", allowed=True, reason=""),
        Rung("default", "b:1", allowed=False, reason="memory"),
    )


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"tiers": None}, {"tiers": []}, {"tiers": [{}]}, {"tiers": ["x"]}, {"tiers": 3}],
)
def test_a_status_without_tiers_is_no_opinion(document: object) -> None:
    assert ladder_of(document) == ()


@given(st.text("01", min_size=4, max_size=4), st.sampled_from(range(4)))
def test_a_request_never_goes_to_a_forbidden_tier_nor_more_than_one_step_up(allowed: str, asked: int) -> None:
    """And each model is tried once, larger ones at or below first."""
    try:
        route = routed(f"gpt-{NAMES[asked]}", ladder(allowed), ALL)
    except NoTierAllowed:
        assert "1" not in allowed[: asked + 2]
        return
    assert route is not None
    places = [NAMES.index(name.removeprefix("gpt-")) for name in (route.group, *route.fallbacks)]
    assert len(places) == len(set(places))
    assert all(allowed[place] == "1" for place in places)
    assert all(place <= asked + 1 for place in places)
    below = [place for place in places if place <= asked]
    assert below == [place for place in range(asked, -1, -1) if allowed[place] == "1"]
    assert places[: len(below)] == below
