"""Ollama's answers are judged value by value: any JSON gives a value or an OllamaError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama import answers, http
from unit.hands.odd_json import HEX, assert_well_typed, json_of, one_replaced

API = Path(__file__).parents[2] / "corpus" / "bed1" / "api"
RECORDED: dict[str, Any] = {path.stem: json.loads(path.read_bytes()) for path in API.glob("*.json")}
"""What a 0.5.4 server answered, by the name of the file: see tests/corpus/README.md."""
SHOW: dict[str, Any] = RECORDED["show"]
PS_ENTRY: dict[str, Any] = RECORDED["ps"]["models"][0] | {"context_length": 4096}
"""A loaded model, with the field that later versions added."""
DIGEST: str = PS_ENTRY["digest"]
PARSERS: dict[str, Callable[[Any], object]] = {
    "version": answers.version_of,
    "tags": answers.tags_of,
    "ps": lambda answer: answers.loaded_of(answer, {}, {}, 0.0),
    "show": answers.shown_of,
    "unload": answers.done_reason_of,
}
"""Each by the name of the recorded answer that it is for."""
KEYS = (
    "models", "name", "model", "digest", "size", "size_vram", "expires_at", "modelfile", "model_info",
    "version", "context_length", "general.architecture", "x.block_count", "x.attention.head_count",
)  # fmt: skip
JSON = json_of(KEYS, [f"FROM /m/blobs/sha256-{HEX}"])


@pytest.mark.parametrize("parser", PARSERS)
@given(answer=JSON)
def test_no_answer_at_all_raises_anything_but_an_ollama_error(parser: str, answer: Any) -> None:
    with contextlib.suppress(OllamaError):
        assert_well_typed(PARSERS[parser](answer))


@pytest.mark.parametrize("parser", PARSERS)
@given(data=st.data())
def test_a_recorded_answer_with_any_one_value_replaced_raises_nothing_but_an_ollama_error(
    parser: str, data: st.DataObject
) -> None:
    broken = data.draw(one_replaced(RECORDED[parser], JSON))
    with contextlib.suppress(OllamaError):
        assert_well_typed(PARSERS[parser](broken))


@given(
    name=st.sampled_from(sorted(path.name for path in API.iterdir())),
    status=st.sampled_from([200, 400, 404, 500, 503]),
    cut=st.integers(0, 3000),
    noise=st.binary(max_size=20),
)
def test_a_recorded_answer_cut_off_and_broken_anywhere_is_json_or_an_ollama_error(
    name: str, status: int, cut: int, noise: bytes
) -> None:
    with contextlib.suppress(OllamaError):
        http._judged("GET /", status, (API / name).read_bytes()[:cut] + noise)


@given(st.dictionaries(st.sampled_from(list(PS_ENTRY)), JSON))
def test_a_wrong_typed_field_of_a_loaded_model_is_unknown_not_fatal(wrong: dict[str, Any]) -> None:
    entry = {**PS_ENTRY, **wrong, "name": "m:latest"}
    (model,) = answers.loaded_of({"models": [entry]}, {}, {}, 0.0)
    assert model.size_bytes is None or model.size_bytes >= 0


def test_the_recorded_answers_say_what_that_server_had() -> None:
    assert answers.version_of(RECORDED["version"]) == "0.5.4-ipexllm-20250407"
    tags, remote = answers.tags_of(RECORDED["tags"])
    digests = {tag.name: tag.digest for tag in tags}
    assert len(tags) == 8
    assert digests["tiny:latest"] == digests["tiny-alias:latest"]
    assert remote == frozenset()
    assert {tag.size_bytes for tag in tags if tag.name.startswith("tiny")} == {98363022}
    assert answers.done_reason_of(RECORDED["unload"]) == "unload"
    assert answers.loaded_of(RECORDED["ps-none"], {}, {}, 0.0) == ()


def test_a_recorded_loaded_model_expires_in_an_hour_or_in_centuries() -> None:
    wall = datetime.fromisoformat("2026-11-26T09:07:15+00:00").timestamp()
    forever, hour = answers.loaded_of(RECORDED["ps"], {DIGEST: "sha256:a"}, {}, wall)
    assert (forever.name, forever.blob, forever.size_bytes) == ("tiny2:latest", "sha256:a", 249394944)
    assert (forever.vram_bytes, forever.context_tokens) == (0, None)
    assert forever.expires_in_seconds == pytest.approx(292 * 365.25 * 86400, rel=0.01)
    assert hour.expires_in_seconds == pytest.approx(3600.336, abs=0.01)


@pytest.mark.parametrize(
    ("name", "status", "kind", "said"),
    [
        ("show-missing", 404, "not_found", "model 'no-such-model' not found"),
        ("killed-runner", 500, "http_error", "an error was encountered while running the model"),
    ],
)
def test_a_recorded_refusal_is_an_ollama_error_in_the_servers_words(
    name: str, status: int, kind: str, said: str
) -> None:
    with pytest.raises(OllamaError, match=said) as refused:
        http._judged("POST /api/show", status, (API / f"{name}.json").read_bytes())
    assert refused.value.kind == kind


def test_a_loaded_model_is_joined_to_its_blob_by_digest_then_by_name() -> None:
    other = {**PS_ENTRY, "name": "other:latest", "digest": "f" * 64}
    strange = {**PS_ENTRY, "name": "strange:latest", "digest": None}
    loaded = answers.loaded_of(
        {"models": [PS_ENTRY, other, strange]}, {DIGEST: "sha256:a"}, {"other:latest": "sha256:b"}, 0.0
    )
    assert [model.blob for model in loaded] == ["sha256:a", "sha256:b", None]


@pytest.mark.parametrize(
    ("text", "wall", "seconds"),
    [
        ("1970-01-01T02:16:40.250000001+02:00", 0.0, 1000.250000001),
        ("1970-01-01T00:16:40Z", 2000.0, -1000.0),
        ("2318-01-01T00:00:00.123456789Z", 0.0, 10981785600.123457),
        ("1969-12-31T23:59:59.5Z", 0.0, -0.5),
        ("0001-01-01T00:00:00Z", 0.0, -62135596800.0),
        ("soon", 0.0, None),
        ("2026-02-30T00:00:00Z", 0.0, None),
        ("2026-01-01 00:00:00", 0.0, None),
    ],
)
def test_expiry_is_read_with_nanoseconds_offsets_and_far_years(
    text: str, wall: float, seconds: float | None
) -> None:
    (model,) = answers.loaded_of({"models": [{**PS_ENTRY, "expires_at": text}]}, {}, {}, wall)
    assert model.expires_in_seconds == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_the_weights_are_the_first_from_line_and_the_cache_has_the_formula_s_size() -> None:
    shown = answers.shown_of(SHOW)
    assert shown is not None
    assert shown.blob == f"sha256:{HEX}"
    assert shown.models_dir == "/var/lib/ollama/models"
    assert shown.path == f"/var/lib/ollama/models/blobs/sha256-{HEX}"
    assert shown.kv_bytes_per_token == 2 * 30 * 3 * (576 // 9) * 2
    assert shown.training_context == 8192


@pytest.mark.parametrize(
    ("capabilities", "embeds"),
    [
        (["embedding"], True),
        (["completion"], False),
        (["completion", "embedding"], False),
        (None, False),
        (3, False),
    ],
)
def test_a_model_that_can_only_embed_is_known_by_its_capabilities(capabilities: Any, *, embeds: bool) -> None:
    shown = answers.shown_of({**SHOW, "capabilities": capabilities})
    assert shown is not None
    assert shown.embeds is embeds


def per_token(architecture: str = "llama", **attention: Any) -> int | None:
    """The cache of one token of SHOW's model with other words about its attention."""
    info = {key.replace("llama.", f"{architecture}."): value for key, value in SHOW["model_info"].items()}
    info |= {f"{architecture}.attention.{key}": value for key, value in attention.items()}
    shown = answers.shown_of({**SHOW, "model_info": info | {"general.architecture": architecture}})
    assert shown is not None
    return shown.kv_bytes_per_token


def test_only_layers_that_have_a_cache_count_each_with_its_own_heads() -> None:
    assert per_token(head_count_kv=[0, 8, 2], head_count=[9, 9, 9]) == 2 * (8 + 2) * (576 // 9) * 2


def test_the_lengths_of_keys_and_values_are_taken_where_they_are_told() -> None:
    """They are not always the width over the heads: half or twice as much in some."""
    assert per_token(key_length=128, value_length=64) == 30 * 3 * (128 + 64) * 2


@pytest.mark.parametrize(
    ("architecture", "every"), [("gemma3", 6), ("gemma2", 2), ("gptoss", 2), ("llama", 1)]
)
def test_layers_that_look_back_a_window_only_do_not_grow(architecture: str, every: int) -> None:
    whole = 2 * 30 * 3 * (576 // 9) * 2
    assert per_token(architecture, sliding_window=1024) == whole // every
    assert per_token(architecture) == whole


@pytest.mark.parametrize(
    "modelfile",
    ["FROM smol:latest\n", f"# FROM /m/blobs/sha256-{HEX}\n", "", None, f"FROM /m/blobs/sha256-{HEX}0\n"],
)
def test_a_model_without_a_local_blob_is_none(modelfile: str | None) -> None:
    assert answers.shown_of({**SHOW, "modelfile": modelfile}) is None


def test_cloud_stubs_are_kept_apart() -> None:
    local = {"name": "smol:latest", "digest": DIGEST, "size": 5}
    stub = {"name": "big:cloud", "digest": "e" * 64, "size": 300, "remote_host": "https://ollama.com:443"}
    tags, remote = answers.tags_of({"models": [local, stub]})
    assert tags == (answers.Tag("smol:latest", DIGEST, 5),)
    assert remote == frozenset({"big:cloud"})


def test_no_models_may_be_said_as_null() -> None:
    assert answers.tags_of({"models": None}) == ((), frozenset())


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("0.5.4-ipexllm-20250407", True),
        ("0.29.9", True),
        ("0.30.0", False),
        ("v0.33.0-rc2", False),
        ("dev", False),
    ],
)
def test_the_dialect_follows_the_version(version: str, *, old: bool) -> None:
    assert answers.is_old_dialect(version) is old
