"""The configuration that is made of the tiers."""

from __future__ import annotations

import pytest
import yaml

from ollama_guard.core.tiers import Tier
from ollama_guard.errors import GuardError
from ollama_guard.integrations.check import check
from ollama_guard.integrations.config import CALLBACK, MODEL_NAMES, render

MIB = 1024**2
TIERS = (
    Tier("light", "smollm:135m", "health checks, status", 91 * MIB, 200 * MIB),
    Tier("default", "smollm:360m", "agents"),
    Tier("reasoning", "tinyllama:1.1b"),
    Tier("fallback", "qwen2.5:3b"),
)
URL = "http://127.0.0.1:11434"


def test_each_tier_is_a_model_that_clients_ask_for_by_the_name_of_openais() -> None:
    rows = yaml.safe_load(render(TIERS, URL))["model_list"]
    assert {row["model_name"]: row["litellm_params"] for row in rows} == {
        "gpt-3.5-turbo-light": {"model": "ollama_chat/smollm:135m", "api_base": URL},
        "gpt-3.5-turbo": {"model": "ollama_chat/smollm:360m", "api_base": URL},
        "gpt-4": {"model": "ollama_chat/tinyllama:1.1b", "api_base": URL},
        "gpt-4-turbo": {"model": "ollama_chat/qwen2.5:3b", "api_base": URL},
    }


def test_the_settings_are_those_of_the_issue_under_the_keys_that_litellm_reads() -> None:
    document = yaml.safe_load(render(TIERS, URL))
    assert document["router_settings"] == {
        "routing_strategy": "least-busy",
        "num_retries": 2,
        "timeout": 180,
        "cooldown_time": 2,
        "default_max_parallel_requests": 5,
        "fallbacks": [
            {"gpt-4-turbo": ["gpt-4", "gpt-3.5-turbo", "gpt-3.5-turbo-light"]},
            {"gpt-4": ["gpt-3.5-turbo", "gpt-3.5-turbo-light"]},
            {"gpt-3.5-turbo": ["gpt-3.5-turbo-light"]},
        ],
    }
    assert document["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    assert document["litellm_settings"] == {"callbacks": [CALLBACK]}


def test_the_head_says_where_the_bound_of_the_queue_belongs() -> None:
    text = render(TIERS, URL)
    assert "OLLAMA_MAX_QUEUE" in text.partition("model_list:")[0]
    assert "max_queue" not in text.partition("model_list:")[2]


def test_names_may_be_chosen_and_a_tier_of_another_name_is_asked_for_by_it() -> None:
    tiers = (*TIERS[:2], Tier("huge", "llama3.1:70b"))
    rows = yaml.safe_load(render(tiers, URL, {"light": "small"}))["model_list"]
    assert [row["model_name"] for row in rows] == ["small", "gpt-3.5-turbo", "huge"]


def test_the_guard_can_be_left_out() -> None:
    assert "litellm_settings" not in yaml.safe_load(render(TIERS, URL, callback=False))


def test_one_tier_has_nothing_to_fall_back_to() -> None:
    assert "fallbacks" not in yaml.safe_load(render(TIERS[:1], URL))["router_settings"]


def test_more_tiers_than_litellm_would_try_are_all_tried() -> None:
    ladder = [Tier(f"t{number}", f"m{number}") for number in range(8)]
    assert yaml.safe_load(render(ladder, URL))["router_settings"]["max_fallbacks"] == 8
    assert "max_fallbacks" not in yaml.safe_load(render(TIERS, URL))["router_settings"]


def test_whatever_a_tier_is_called_it_stays_one_value() -> None:
    """Nothing of a name or purpose becomes a key, a line or a comment's end."""
    odd = Tier('a: "b"\n- c', "hf.co/x/y:Q4 # z", "for\nthis: and that", None, 3 * MIB)
    rows = yaml.safe_load(render((odd,), URL))["model_list"]
    assert rows == [
        {
            "model_name": 'a: "b"\n- c',
            "litellm_params": {"model": "ollama_chat/hf.co/x/y:Q4 # z", "api_base": URL},
        }
    ]


@pytest.mark.parametrize("callback", [True, False])
def test_what_is_rendered_has_no_key_that_litellm_ignores(callback: bool) -> None:  # noqa: FBT001
    for tiers in (TIERS, TIERS[:1], [Tier(f"t{number}", f"m{number}") for number in range(8)]):
        assert check(render(tiers, URL, callback=callback), "litellm.yaml") == []


@pytest.mark.parametrize(
    ("tiers", "names", "sentence"),
    [
        ((), {}, "there are no tiers to make a configuration from"),
        (
            TIERS,
            {"lite": "x"},
            "there is no tier 'lite' to be called 'x'; there are light, default, reasoning",
        ),
        (TIERS, {"light": " "}, "the tier 'light' needs a name"),
        (TIERS, {"light": "gpt-4"}, "'gpt-4' would be both 'light' and 'reasoning'"),
    ],
)
def test_what_can_not_be_made_is_said_in_a_sentence(
    tiers: tuple[Tier, ...], names: dict[str, str], sentence: str
) -> None:
    with pytest.raises(GuardError) as found:
        render(tiers, URL, names)
    assert sentence in str(found.value)


def test_the_names_of_the_issue_are_all_there() -> None:
    assert list(MODEL_NAMES) == [tier.name for tier in TIERS]
