"""Two runs of `bench` compared, and how runs are told to people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core import benchtext
from ollama_guard.core.benchcompare import Trend, compared
from ollama_guard.core.benchmark import (
    Answer,
    Bench,
    Figure,
    Machine,
    Measured,
    Prompt,
    Round,
    Verdict,
    summed,
)
from ollama_guard.core.policy import GIB, MIB


def model(name: str, *loads: float, rate: float = 10.0) -> Measured:
    """A model whose rounds differ in their loads alone."""
    answers = (
        Answer(Prompt.BASIC, 2.0, first_token_seconds=0.05, tokens=20, tokens_per_second=rate),
        Answer(Prompt.CODE, 12.0, first_token_seconds=0.25, tokens=100, tokens_per_second=rate),
    )
    rounds = tuple(Round(load, 0.2, 200 * MIB, 5 * GIB, GIB, answers) for load in loads)
    return summed(Measured(name, Verdict.MEASURED, blob=f"sha256:{name}", rounds=rounds))


def run(*models: Measured, **changes: object) -> Bench:
    whole = Bench("0.1.0", 1.7e9, Machine(2, 4 * GIB, "6.1"), "0.33.0", True, 3, 128, models)  # noqa: FBT003
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_medians_are_compared_and_a_change_beyond_the_spread_of_both_has_a_name() -> None:
    old, new = run(model("a:1", 2.0, 2.1, 2.2)), run(model("a:1", 1.0, 1.05, 1.1))
    by_figure = {change.figure: change for change in compared(old, new).changes}
    load = by_figure["load_seconds"]
    assert (load.old, load.new, load.ratio, load.trend) == (2.1, 1.05, 0.5, Trend.BETTER)
    assert by_figure["basic.total_seconds"].trend is Trend.WITHIN


@pytest.mark.parametrize(
    ("then", "now", "trend"),
    [
        ((2.0, 2.2), (2.1, 2.4), Trend.WITHIN),
        ((2.0, 2.2), (2.3, 2.4), Trend.WORSE),
        ((2.0,), (9.0, 9.0), Trend.UNSURE),
    ],
)
def test_what_may_be_chance_is_not_called_worse(
    then: tuple[float, ...], now: tuple[float, ...], trend: Trend
) -> None:
    changes = compared(run(model("a:1", *then)), run(model("a:1", *now))).changes
    assert next(c.trend for c in changes if c.figure == "load_seconds") is trend


def test_more_tokens_a_second_are_better() -> None:
    old, new = run(model("a:1", 1.0, 1.0, rate=10.0)), run(model("a:1", 1.0, 1.0, rate=20.0))
    rates = [c for c in compared(old, new).changes if c.figure.endswith("tokens_per_second")]
    assert {c.trend for c in rates} == {Trend.BETTER}
    assert {c.ratio for c in rates} == {2.0}


def test_nothing_is_divided_by_zero() -> None:
    old = replace(model("a:1", 1.0), figures={"load_seconds": Figure(0.0, 0.0, 0.0, 1)})
    (change,) = compared(run(old), run(model("a:1", 1.0))).changes
    assert change.ratio is None


def test_what_was_not_the_same_is_told_with_the_figures() -> None:
    other = replace(model("b", 1.0), blob="sha256:other")
    old = run(model("gone:1", 1.0), model("b:latest", 1.0), tokens_most=64, ended="interrupted (SIGINT)")
    new = run(model("new:1", 1.0), other, machine=Machine(8, None, "6.1"), ollama_version="0.34.0")
    assert compared(old, new).caveats == (
        "the machine was another then: 2 CPUs, 4.0 GiB, Linux 6.1, now 8 CPUs, memory not known, Linux 6.1",
        "Ollama was another then: 0.33.0, now 0.34.0",
        "the longest answer was another then: 64 tokens, now 128 tokens",
        "the old run ended early: interrupted (SIGINT)",
        "new:1 was not measured then",
        "b has other weights now",
        "gone:1 is not measured now",
    )


def test_the_table_has_a_row_for_each_prompt_and_the_models_own_figures_once() -> None:
    first, second = benchtext.rows(run(model("a:1", 0.62)))
    assert first == ("a:1", "basic", "0.62 s", "50 ms", "10.0", "2.00 s", "200 MiB", "5.0 GiB", "0.20 s")
    assert second == ("", "code", "", "0.25 s", "10.0", "12 s", "", "", "")


def test_a_model_that_was_not_measured_is_a_sentence_and_no_row() -> None:
    refused = Measured("big:1", Verdict.REFUSED, "it needs 8.0 GiB\nand host has 1.0 GiB above hard")
    bench = run(refused, guarded=False, ended="memory ran short")
    assert benchtext.rows(bench) == []
    assert benchtext.notes(bench) == [
        "big:1: refused: it needs 8.0 GiB\\x0aand host has 1.0 GiB above hard",
        "ended early: memory ran short",
    ]


def test_without_a_guard_it_says_that_nothing_was_learnt() -> None:
    assert benchtext.notes(run(model("a:1", 1.0), guarded=False)) == [benchtext.NOT_LEARNT]
    assert benchtext.notes(run(model("a:1", 1.0))) == []


def test_the_spread_of_the_worst_figure_is_told() -> None:
    (told,) = benchtext.notes(run(model("a:1", 1.0, 2.0, 4.0)))
    assert told == "a:1: medians of 3 rounds; load varied most, from 1.00 s to 4.00 s"


def test_markdown_is_a_table_that_no_name_can_break() -> None:
    lines = benchtext.markdown(benchtext.HEADINGS, benchtext.rows(run(model("a|b_c\n<x>", 1.0))))
    assert len(lines) == 4
    assert lines[2].startswith("| a\\|b\\_c\\\\x0a\\<x\\> | basic | 1.00 s |")
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(benchtext.HEADINGS) + 1}


def test_narrow_lines_hold_every_figure_and_fit_into_forty_columns() -> None:
    bench = run(model("a:1", 1.0))
    lines = benchtext.narrow(bench)
    assert len(lines) == 1 + len(bench.models[0].figures)
    assert "  code first token: 0.25 s" in lines
    changes = benchtext.narrow_changes(compared(bench, bench))
    assert "  load: x1.00" in changes
    assert max(map(len, lines + changes)) <= 40
