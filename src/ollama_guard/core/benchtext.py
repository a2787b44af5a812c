"""A run of `bench` as a person reads it: a table, lines where it is too wide, Markdown for a README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ollama_guard.core.benchcompare import Change, Comparison, Trend
from ollama_guard.core.benchmark import Bench, Figure, Measured, Prompt, Verdict
from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text, count_text, seconds_text

HEADINGS = ("MODEL", "PROMPT", "LOAD", "FIRST TOKEN", "TOKENS/S", "TOTAL", "RUNNER", "HOST", "UNLOAD")
CHANGED = ("MODEL", "FIGURE", "THEN", "NOW", "CHANGE", "")
UNKNOWN = "-"
NOT_LEARNT = (
    "no guard was running: what the models take is shown here and kept nowhere, since the footprint ledger "
    "is the guard's alone; with one running the same loads teach it"
)

_ONCE = ("load_seconds", "runner_peak_bytes", "host_peak_bytes", "unload_seconds")
_EACH = ("first_token_seconds", "tokens_per_second", "total_seconds")
_WORDS = {
    "load_seconds": "load", "unload_seconds": "unload", "runner_peak_bytes": "runner's peak",
    "host_peak_bytes": "host's peak", "first_token_seconds": "first token",
    "tokens_per_second": "tokens/s", "total_seconds": "total",
}  # fmt: skip
_TRENDS = {Trend.BETTER: "better", Trend.WORSE: "worse", Trend.WITHIN: "within the spread", Trend.UNSURE: ""}


def rows(bench: Bench) -> list[tuple[str, ...]]:
    """The table's cells without its headings: a row for each prompt, the model's own figures in its first."""
    return [row for model in bench.models if model.figures for row in _rows(model)]


def _rows(model: Measured) -> Iterator[tuple[str, ...]]:
    asked = [prompt for prompt in Prompt if f"{prompt}.total_seconds" in model.figures]
    load, runner, host, unload = (_cell(model, figure) for figure in _ONCE)
    for number, prompt in enumerate(asked or [None]):
        each = [UNKNOWN] * 3 if prompt is None else [_cell(model, f"{prompt}.{figure}") for figure in _EACH]
        once = (model.name, load, runner, host, unload) if number == 0 else ("",) * 5
        yield (once[0], str(prompt or UNKNOWN), once[1], *each, *once[2:])


def _cell(model: Measured, name: str) -> str:
    figure = model.figures.get(name)
    return UNKNOWN if figure is None else value_text(name, figure.median)


def value_text(figure: str, value: float) -> str:
    """``43 ms``, ``0.62 s``, ``38.1``, ``1.5 GiB``, as the figure's name calls for."""
    if figure.endswith("_bytes"):
        return bytes_text(value)
    if figure.endswith("_per_second"):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    if value < 0.1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else seconds_text(value)


def narrow(bench: Bench) -> list[str]:
    """The same for a terminal that the table does not fit on: short lines, a figure in each."""
    lines: list[str] = []
    for model in (model for model in bench.models if model.figures):
        lines += [model.name, *(f"  {figure_text(name)}: {_cell(model, name)}" for name in model.figures)]
    return [one_line(line) for line in lines]


def figure_text(name: str) -> str:
    """``basic: first token``, ``load``."""
    prompt, dot, figure = name.rpartition(".")
    return f"{prompt} {_WORDS.get(figure, figure)}" if dot else _WORDS.get(figure, figure)


def notes(bench: Bench) -> list[str]:
    """What the figures don't say: who was not measured and why, what was odd, how it was measured."""
    told: list[str] = []
    for model in bench.models:
        if model.verdict is not Verdict.MEASURED:
            told.append(f"{model.name}: {model.verdict}: {model.reason}")
        told += [f"{model.name}: {note}" for note in model.notes]
        told += _spread(model)
    if bench.ended:
        told.append(f"ended early: {bench.ended}")
    if not bench.guarded and any(model.rounds for model in bench.models):
        told.append(NOT_LEARNT)
    return [one_line(line) for line in told]


def _spread(model: Measured) -> Iterator[str]:
    """How far the rounds lie apart, worst figure first: a median without its spread says little."""
    wide = [
        (figure.most / figure.least, name, figure) for name, figure in model.figures.items() if _apart(figure)
    ]
    if wide:
        _, name, figure = max(wide, key=lambda found: found[0])
        least, most = value_text(name, figure.least), value_text(name, figure.most)
        rounds = count_text(figure.count, "round")
        yield f"{model.name}: medians of {rounds}; {figure_text(name)} varied most, from {least} to {most}"


def _apart(figure: Figure) -> bool:
    return figure.most > figure.least > 0


def about(bench: Bench) -> str:
    """What the figures were measured on."""
    machine = bench.machine
    memory = "" if machine.memory_bytes is None else f", {bytes_text(machine.memory_bytes)} of memory"
    rounds = "one round" if bench.repeat == 1 else f"medians of {count_text(bench.repeat, 'round')}"
    return (
        f"{count_text(machine.cpus, 'CPU')}{memory}, Linux {machine.kernel}, "
        f"Ollama {bench.ollama_version or 'unknown'}; {rounds}, answers of {bench.tokens_most} tokens at most"
    )


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A table as GitHub shows it; what would be markup or a new cell is escaped."""
    lines = [headings, ["---"] * len(headings), *cells]
    return [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines]


def _escaped(cell: str) -> str:
    return "".join(f"\\{char}" if char in r"\|`*_<>[]" else char for char in one_line(cell))


def change_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Cells below `CHANGED`, each model's name once."""
    told: list[tuple[str, ...]] = []
    last = ""
    for change in comparison.changes:
        then, now = value_text(change.figure, change.old), value_text(change.figure, change.new)
        name = "" if change.model == last else change.model
        told.append((name, figure_text(change.figure), then, now, _ratio(change), _TRENDS[change.trend]))
        last = change.model
    return told


def narrow_changes(comparison: Comparison) -> list[str]:
    """The same in short lines."""
    lines: list[str] = []
    for name, figure, then, now, ratio, trend in change_rows(comparison):
        lines += [name] if name else []
        lines.append(f"  {figure}: {ratio} {trend}".rstrip())
        lines.append(f"    {then}, now {now}")
    return [one_line(line) for line in lines]


def _ratio(change: Change) -> str:
    return UNKNOWN if change.ratio is None else f"x{change.ratio:.2f}"
