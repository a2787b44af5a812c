"""What is said of an existing LiteLLM configuration."""

from __future__ import annotations

import io

import pytest

from ollama_guard.errors import ConfigError
from ollama_guard.integrations.check import READ_BYTES, check, decoded

GOOD = """\
model_list:
  - model_name: gpt-4
    litellm_params:
      model: ollama_chat/tinyllama:1.1b
      api_base: http://127.0.0.1:11434
      temperature: 0.2
    model_info: {mode: chat}
  - model_name: hosted
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/KEY}
router_settings:
  num_retries: 2
  fallbacks: [{gpt-4: [hosted]}]
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
litellm_settings:
  drop_params: true
"""


def said(text: str) -> list[tuple[int, str, bool]]:
    return [(remark.line, remark.key, remark.ignored) for remark in check(text, "litellm.yaml")]


def test_of_a_good_file_there_is_nothing_to_say() -> None:
    assert said(GOOD) == []


@pytest.mark.parametrize(
    ("section", "line", "key", "hint"),
    [
        (
            "router_settings",
            "max_parallel_requests: 5",
            "max_parallel_requests",
            "default_max_parallel_requests",
        ),
        ("router_settings", "max_queue_size: 100", "max_queue_size", "OLLAMA_MAX_QUEUE"),
        ("router_settings", "num_retrys: 2", "num_retrys", "did you mean num_retries?"),
        ("router_settings", "master_key: x", "master_key", "it is read under general_settings"),
        ("litellm_settings", "cooldown_time: 2", "cooldown_time", "it is read under router_settings"),
        (
            "litellm_settings",
            "routing_strategy: least-busy",
            "routing_strategy",
            "read under router_settings",
        ),
        (
            "general_settings",
            "routing_strategy: least-busy",
            "routing_strategy",
            "read under router_settings",
        ),
        ("general_settings", "model_list: []", "model_list", "a section of its own"),
    ],
)
def test_a_key_that_litellm_ignores_is_named_with_its_line_and_what_to_write(
    section: str, line: str, key: str, hint: str
) -> None:
    """Without the line nothing is said."""
    text = GOOD.replace(f"{section}:\n", f"{section}:\n  {line}\n")
    assert text != GOOD
    (remark,) = check(text, "litellm.yaml")
    assert (remark.key, remark.ignored) == (key, True)
    assert text.splitlines()[remark.line - 1].strip() == line
    assert f"LiteLLM ignores {key!r} under {section}; " in remark.sentence
    assert hint in remark.sentence


def test_an_unknown_section_is_ignored_with_all_that_is_in_it() -> None:
    assert said(GOOD + "router_setings: {timeout: 3}\n") == [(17, "router_setings", True)]
    (remark,) = check(GOOD + "timeout: 3\n", "litellm.yaml")
    assert "it is read under router_settings" in remark.sentence


def test_a_key_that_stands_twice_counts_once() -> None:
    text = GOOD.replace("  num_retries: 2\n", "  num_retries: 2\n  num_retries: 3\n")
    assert said(text) == [(11, "num_retries", True)]


def test_in_a_row_of_models_what_belongs_to_the_router_is_named() -> None:
    text = GOOD.replace("    model_info: {mode: chat}\n", "    rpm: 3\n").replace(
        "      temperature: 0.2\n", "      routing_strategy: least-busy\n"
    )
    assert said(text) == [(6, "routing_strategy", True), (7, "rpm", True)]


def test_an_ollama_model_without_an_address_would_get_a_server_of_litellms_own() -> None:
    (remark,) = check(GOOD.replace("      api_base: http://127.0.0.1:11434\n", ""), "litellm.yaml")
    assert (remark.key, remark.ignored) == ("api_base", False)
    assert "starts an `ollama serve` of its own" in remark.sentence


def test_a_fallback_to_a_model_that_nobody_serves_is_named() -> None:
    (remark,) = check(GOOD.replace("[{gpt-4: [hosted]}]", "[{gpt-4: [hostd]}]"), "litellm.yaml")
    assert (remark.line, remark.sentence) == (
        12,
        "fallbacks name 'hostd', which no row of model_list is called",
    )


def test_a_row_that_is_no_model_is_named() -> None:
    assert said("model_list:\n  - model_name: x\n  - 7\n") == [
        (2, "model_list", False),
        (3, "model_list", False),
    ]
    assert said("model_list: {a: 1}\n") == [(1, "model_list", False)]
    assert said("general_settings: {}\n") == [(1, "model_list", False)]
    assert said("include: [other.yaml]\n") == []


def test_what_stands_elsewhere_by_an_anchor_is_not_missed() -> None:
    text = """\
model_list:
  - &row
    model_name: a
    litellm_params: &params {model: ollama/a, api_base: http://x}
  - {<<: *row, model_name: b}
  - {model_name: c, litellm_params: {<<: *params}}
"""
    assert [line for line, _, _ in said(text)] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model_list:\n  - model_name: a\n   litellm_params: b\n", 3),
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 'open\nb: 2\n", 3),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: !thing 1\n", 1),
        ("- 1\n- 2\n", 1),
        ("a: \x00", 1),
        ("a: 1\nb: 2\nc: \x1b[0m\n", 3),
    ],
)
def test_a_broken_file_is_said_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as found:
        check(text, "litellm.yaml")
    (sentence,) = found.value.problems
    assert sentence.startswith(f"litellm.yaml, line {line}: ")


def test_a_character_that_no_yaml_may_have_is_named_by_its_number() -> None:
    with pytest.raises(ConfigError, match=r"^x, line 2: .* special characters are not allowed \(#x0000\)$"):
        check("a: 1\nb: \x00", "x")


@pytest.mark.parametrize("text", ["", "# nothing\n", "[" * 5000])
def test_what_is_no_configuration_at_all_is_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError) as found:
        check(text, "litellm.yaml")
    assert found.value.problems[0].startswith("litellm.yaml")


def test_a_file_that_is_no_text_or_too_long_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"x, line 2: this is no text in UTF-8"):
        decoded(io.BytesIO(b"a: 1\n\xff\xfe"), "x")
    with pytest.raises(ConfigError, match=r"longer than"):
        decoded(io.BytesIO(b"#" * (READ_BYTES + 1)), "x")
    assert decoded(io.BytesIO("a: ö".encode()), "x") == "a: ö"
