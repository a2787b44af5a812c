"""What a run of `bench` comes to: figures, its document and the ugly ones, when a machine is left alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ollama_guard.core.benchmark import (
    SCHEMA,
    Answer,
    Bench,
    Figure,
    Machine,
    Measured,
    NotABench,
    Prompt,
    Round,
    Verdict,
    read,
    summed,
    why_stop,
)
from ollama_guard.core.codec import to_plain
from ollama_guard.core.model import HOST, DomainReading
from ollama_guard.core.policy import GIB, MIB, Policy

ANSWER = Answer(Prompt.BASIC, 2.0, first_token_seconds=0.1, tokens=20, tokens_per_second=10.0)
ROUND = Round(
    load_seconds=1.0, unload_seconds=0.2, runner_peak_bytes=200 * MIB, host_peak_bytes=GIB, answers=(ANSWER,)
)
MODEL = summed(Measured("tiny:latest", Verdict.MEASURED, blob="sha256:aa", rounds=(ROUND,)))
BENCH = Bench(
    version="0.1.0",
    at_wall=1.7e9,
    machine=Machine(2, 4 * GIB, "6.1"),
    ollama_version="0.33.0",
    guarded=True,
    repeat=1,
    tokens_most=128,
    models=(MODEL,),
)


def test_a_figure_is_the_median_of_its_rounds_with_the_ends_of_what_was_seen() -> None:
    rounds = tuple(replace(ROUND, load_seconds=seconds) for seconds in (9.0, 1.0, 2.0))
    figures = summed(replace(MODEL, rounds=rounds)).figures
    assert figures["load_seconds"] == Figure(2.0, 1.0, 9.0, 3)
    assert figures["basic.tokens_per_second"] == Figure(10.0, 10.0, 10.0, 3)


def test_what_was_not_measured_is_no_figure_and_never_zero() -> None:
    """An embedding has neither tokens nor a first one; a round that was cut has no unload."""
    cut = Round(load_seconds=1.0, answers=(Answer(Prompt.CODE, 0.5),))
    figures = summed(replace(MODEL, rounds=(cut,))).figures
    assert sorted(figures) == ["code.total_seconds", "load_seconds"]


def test_a_document_is_read_back_as_it_was_written_also_with_a_comparison_in_it() -> None:
    document = to_plain(BENCH) | {"comparison": {"changes": [], "caveats": []}}
    assert read(json.dumps(document)) == BENCH


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON"),
        ('{"kind": "ollama-guard bench", "models": [', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1, 2]", "not what `ollama-guard bench --json` prints"),
        ('{"models": []}', "not what `ollama-guard bench --json` prints"),
        (json.dumps(to_plain(BENCH) | {"schema": SCHEMA + 1}), "of a newer version: its schema is 2"),
        (json.dumps(to_plain(BENCH) | {"schema": "1"}), "it is damaged: schema"),
        (json.dumps(to_plain(BENCH) | {"models": 3}), "it is damaged: models: expected a list"),
        (json.dumps(to_plain(BENCH) | {"repeat": None}), "it is damaged: repeat"),
        (json.dumps(to_plain(BENCH)).replace("1700000000.0", "NaN"), "it is damaged: at_wall"),
        (json.dumps(to_plain(BENCH)).replace('"measured"', '"superb"'), "it is damaged: models[0].verdict"),
    ],
)
def test_a_document_that_is_none_says_why(text: str, why: str) -> None:
    with pytest.raises(NotABench) as caught:
        read(text)
    assert why in str(caught.value)


def host(available: int | None) -> DomainReading:
    return DomainReading(HOST, 10 * GIB, available)


def test_below_hard_nothing_more_is_asked_of_a_machine() -> None:
    """Hard is a tenth of it: 1 GiB."""
    assert why_stop(Policy(), (host(1100 * MIB),), others_loaded=False) == ""
    reason = why_stop(Policy(), (host(1000 * MIB),), others_loaded=False)
    assert reason == "memory ran short: host has 1000 MiB available, less than hard (1.0 GiB)"


def test_with_other_models_loaded_it_ends_at_soft_since_the_guard_would_unload_those() -> None:
    assert why_stop(Policy(), (host(2100 * MIB),), others_loaded=True) == ""
    reason = why_stop(Policy(), (host(2000 * MIB),), others_loaded=True)
    assert "less than soft (2.0 GiB), and other models are loaded" in reason


def test_the_worst_domain_counts_and_memory_that_cannot_be_read_is_no_room() -> None:
    container = DomainReading("container:ollama", 2 * GIB, 100 * MIB)
    assert "container:ollama has 100 MiB" in why_stop(
        Policy(), (host(8 * GIB), container), others_loaded=False
    )
    assert why_stop(Policy(), (host(None),), others_loaded=False) == "memory can't be read"
    assert why_stop(Policy(), (), others_loaded=False) == "memory can't be read"
