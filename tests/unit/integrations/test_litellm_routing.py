"""Which model serves a request, given what the guard allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.integrations.routing import (
    AttemptRefused,
    NoTierAllowed,
    Route,
    Rung,
    bases_in,
    forbidden_models,
    is_governed,
    ladder_of,
    model_of,
    ollama_name,
    own_fallbacks,
    routed,
    tier_of,
)

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
    ("allowed", "others", "route"),
    [
        ("1110", ("hosted",), Route("gpt-large", "large", ("gpt-middle", "gpt-small", "hosted"))),
        ("0000", ("hosted", "dear"), Route("gpt-large", "large", ("hosted", "dear"))),
        ("0000", ("gpt-small", "hosted"), Route("gpt-large", "large", ("hosted",))),
        ("1110", ("gpt-huge", "gpt-small"), Route("gpt-large", "large", ("gpt-middle", "gpt-small"))),
        (
            "1000",
            ({"model": "hosted", "temperature": 0},),
            Route("gpt-small", "small", ({"model": "hosted", "temperature": 0},)),
        ),
        (
            "1100",
            ({"model": "hosted"},),
            Route("gpt-middle", "middle", ({"model": "gpt-small"}, {"model": "hosted"})),
        ),
    ],
)
def test_the_owners_fallbacks_to_what_is_no_tier_come_last_and_serve_where_no_tier_may(
    allowed: str, others: tuple[str, ...], route: Route
) -> None:
    """Those to tiers are left to the ladder: what it forbids is not to be had by another way."""
    assert routed("gpt-large", ladder(allowed), ALL, others) == route


def test_fallbacks_to_tiers_alone_are_no_way_out() -> None:
    with pytest.raises(NoTierAllowed):
        routed("gpt-large", ladder("0000"), ALL, ("gpt-middle", "gpt-small"))


@pytest.mark.parametrize(
    ("fallbacks", "found"),
    [
        (None, ()),
        ([], ()),
        ("hosted", ()),
        (["a", "b"], ("a", "b")),
        ([{"model": "a", "messages": []}], ({"model": "a", "messages": []},)),
        ([{"gpt-4": ["a"]}, {"*": ["b"]}], ("a",)),
        ([{"other": ["a"]}, {"*": ["b", {"model": "c"}]}], ("b", {"model": "c"})),
        ([{"other": ["a"]}], ()),
        ([{"gpt-4": "a"}], ()),
        ([{"gpt-4": [7, None, {}, "a"]}, 3], ("a",)),
    ],
)
def test_the_owners_fallbacks_are_read_in_both_ways_to_write_them(
    fallbacks: object, found: tuple[object, ...]
) -> None:
    assert own_fallbacks("gpt-4", fallbacks) == found


def at(base: str, model_name: str, model: str) -> dict[str, object]:
    return {
        "model_name": model_name,
        "litellm_params": {"model": f"ollama_chat/{model}:1b", "api_base": base},
    }


HERE, AWAY = "http://here:11434", "http://bigbox:11434"
BOTH = [
    at(HERE, "gpt-small", "small"),
    at(HERE, "gpt-large", "large"),
    at(AWAY, "gpt-large", "large"),
    at(AWAY, "far", "large"),
]


def test_a_name_that_another_server_answers_to_stays_where_the_guard_knows_which_server_is_its_own() -> None:
    """Where it does not, both count as its own; and what only the other serves is none of its business."""
    here = bases_in(HERE)
    tiers = [
        Rung("small", "small:1b", allowed=True, reason=""),
        Rung("large", "large:1b", allowed=False, reason="memory"),
    ]
    assert routed("gpt-large", tiers, BOTH, bases=here) == Route("gpt-large", "large", ("gpt-small",))
    assert routed("gpt-large", tiers, BOTH) == Route("gpt-small", "small", ())
    assert routed("far", tiers, BOTH, bases=here) is None
    # To another server goes only who asks for it, or whose fallbacks name it.
    assert routed("gpt-small", tiers, BOTH, bases=here) == Route("gpt-small", "small", ())
    assert routed("gpt-small", tiers, BOTH, ("far", "gpt-large"), here) == Route(
        "gpt-small", "small", ("far", "gpt-large")
    )


@pytest.mark.parametrize(
    "written", ["http://here:11434", "HERE:11434/", " http://x:1 , http://here:11434/v1"]
)
def test_an_address_is_known_however_it_is_written(written: str) -> None:
    assert is_governed(BOTH[0], bases_in(written))
    assert not is_governed(BOTH[2], bases_in(written))
    assert not is_governed({}, bases_in(written))


def test_without_an_address_every_server_is_the_guards() -> None:
    for nothing in ("", " , "):
        assert all(is_governed(row, bases_in(nothing)) for row in (*BOTH, {}, None))


def test_two_tiers_of_one_model_are_one_and_forbidden_only_where_both_are() -> None:
    """A blob has one runner: what one tier may load, the other may as well."""
    twins = [
        Rung("small", "a:1b", allowed=True, reason=""),
        Rung("large", "a:1b", allowed=False, reason="memory"),
    ]
    served = [at(HERE, "gpt-small", "a"), at(HERE, "gpt-large", "a")]
    route = routed("gpt-large", twins, served)
    assert route is not None
    assert (route.group, route.tier) == ("gpt-large", "small")
    assert forbidden_models(twins) == {}
    neither = [Rung(each.name, each.model, allowed=False, reason="memory") for each in twins]
    assert set(forbidden_models(neither)) == {"a:1b"}
    with pytest.raises(NoTierAllowed):
        routed("gpt-large", neither, served)
    assert [tier_of("a:1b", twins, first) for first in ("large", "small", "no tier")] == [
        "large",
        "small",
        "small",
    ]
    assert tier_of("b:1b", twins, "large") == ""


def test_two_tiers_that_are_names_of_one_blob_are_each_asked_by_its_own_name() -> None:
    """Only Ollama knows that they are the same; the guard judges both alike, and the smaller helps out."""
    aliases = [
        Rung("small", "a:1b", allowed=True, reason=""),
        Rung("large", "a:copy", allowed=True, reason=""),
    ]
    served = [
        {"model_name": "gpt-small", "litellm_params": {"model": "ollama_chat/a:1b"}},
        {"model_name": "gpt-large", "litellm_params": {"model": "ollama_chat/a:copy"}},
    ]
    assert routed("gpt-large", aliases, served) == Route("gpt-large", "large", ("gpt-small",))
    assert tier_of("a:copy", aliases, "large") == "large"


def test_a_refused_attempt_is_not_one_to_be_tried_again_and_reads_like_the_refusal_of_a_request() -> None:
    """LiteLLM tries again what has a status of 408, 409, 429 or 500 and above."""
    refused = AttemptRefused("memory", "does not allow the tier 'large', which serves 'gpt-4'")
    assert refused.status_code not in (408, 409, 429)
    assert 400 <= refused.status_code < 500
    assert refused.message.startswith(
        "no model can be loaded now: memory (ollama-guard does not allow the tier"
    )
    assert refused.headers == {"Retry-After": "10"}
    refused.message += "\n\nLiteLLM: no fallbacks are configured."
    refused.told()
    assert (refused.status_code, refused.message) == (503, str(refused))


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
    places = [NAMES.index(str(name).removeprefix("gpt-")) for name in (route.group, *route.fallbacks)]
    assert len(places) == len(set(places))
    assert all(allowed[place] == "1" for place in places)
    assert all(place <= asked + 1 for place in places)
    below = [place for place in places if place <= asked]
    assert below == [place for place in range(asked, -1, -1) if allowed[place] == "1"]
    assert places[: len(below)] == below
