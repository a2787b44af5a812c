"""Which models `bench` measures, and what an answer that was heard comes to."""

from __future__ import annotations

import pytest

from ollama_guard.cli.benchrun import choose
from ollama_guard.cli.benchwork import answer_of
from ollama_guard.core.benchmark import End, Prompt, Verdict
from ollama_guard.core.model import CatalogueEntry
from ollama_guard.errors import GuardError
from ollama_guard.hands.adapters.ollama.timing import Spoken

BIG = CatalogueEntry("sha256:big", ("big:7b", "b:latest"), 7000)
SMALL = CatalogueEntry("sha256:small", ("small:latest",), 100)
HIDDEN = CatalogueEntry("sha256:hidden", ("quarantine.registry.ollama.ai/library/giant:70b",), 70000)
CLOUD = ("vast:cloud",)


def test_without_names_all_are_measured_the_smallest_first_and_under_their_shortest_name() -> None:
    chosen = choose((BIG, SMALL), (), ())
    assert [(entry.blob, name) for entry, name in chosen.models] == [
        ("sha256:small", "small:latest"),
        ("sha256:big", "big:7b"),
    ]


def test_hidden_models_and_those_of_the_cloud_are_left_out_with_a_reason() -> None:
    chosen = choose((HIDDEN, SMALL), CLOUD, ())
    assert [name for _, name in chosen.models] == ["small:latest"]
    assert {model.verdict for model in chosen.skipped} == {Verdict.SKIPPED}
    assert ["hidden" in chosen.skipped[0].reason, "cloud" in chosen.skipped[1].reason] == [True, True]


def test_named_ones_come_in_their_order_and_two_names_of_one_model_are_measured_once() -> None:
    chosen = choose((SMALL, BIG), CLOUD, ("b", "small", "big:7b", "vast:cloud", "x:cloud"))
    assert [name for _, name in chosen.models] == ["b:latest", "small:latest"]
    assert [model.name for model in chosen.skipped] == ["vast:cloud", "x:cloud"]


def test_a_name_that_is_not_installed_ends_it_before_anything_is_measured() -> None:
    with pytest.raises(GuardError, match="no model named 'smal' is installed; did you mean small:latest"):
        choose((SMALL, BIG), (), ("big:7b", "smal"))


@pytest.mark.parametrize(
    ("spoken", "end", "tokens", "rate"),
    [
        (Spoken(2.0, 0.1, 19, 9.5, "stop", 20, 10.0), End.STOP, 20, 10.0),
        (Spoken(2.0, 0.1, 19, 9.5, "length", 20, 10.0), End.LENGTH, 20, 10.0),
        (Spoken(2.0, 0.1, 64, 9.5, "", 64, 10.0), End.LENGTH, 64, 10.0),
        (Spoken(2.0, 0.1, 19, 9.5, "stop"), End.STOP, 19, 9.5),
        (Spoken(2.0, 0.1, 19, 9.5), End.DEADLINE, 19, 9.5),
        (Spoken(2.0, None, 0, None, "stop", 0), End.STOP, 0, None),
    ],
)
def test_ollamas_own_count_comes_before_that_of_the_pieces(
    spoken: Spoken, end: End, tokens: int, rate: float | None
) -> None:
    answer = answer_of(Prompt.CODE, spoken, 64)
    assert (answer.end, answer.tokens, answer.tokens_per_second) == (end, tokens, rate)
