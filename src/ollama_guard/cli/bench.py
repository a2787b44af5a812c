"""``bench``: what each model costs here, measured through Ollama's own API."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ollama_guard.cli.completion import model_names
from ollama_guard.cli.options import (
    ConfigOption,
    JsonOption,
    RuntimeDirOption,
    StateDirOption,
    places,
    seconds_of,
)
from ollama_guard.errors import GuardError

if TYPE_CHECKING:
    from ollama_guard.core.benchcompare import Comparison
    from ollama_guard.core.benchmark import Bench

# Bytes of an older run that are read: a hundred models of ten rounds take a tenth of it.
OLD_BYTES = 16 * 1024 * 1024
# The longest answer that may be asked for (tokens): longer ones tell nothing more of a machine.
MOST_TOKENS = 4096
MOST_ROUNDS = 100


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=model_names,
            help="Any of their names; without one: all of them.",
        ),
    ] = None,
    *,
    repeat: Annotated[
        int,
        typer.Option(
            "--repeat", metavar="N", min=1, max=MOST_ROUNDS, help="Rounds of each model; medians are shown."
        ),
    ] = 1,
    tokens: Annotated[
        int,
        typer.Option("--tokens", metavar="N", min=1, max=MOST_TOKENS, help="The longest answer, in tokens."),
    ] = 128,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="For one load, and for one answer.")
    ] = "5min",
    compare: Annotated[
        Path | None,
        typer.Option("--compare", parser=Path, metavar="OLD.json", help="Show what changed since that run."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for a README.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """What each model costs here: time, speed and memory.

    \b
      ollama-guard bench
      ollama-guard bench llama3.2:3b qwen2.5:3b --repeat 3
      ollama-guard bench --json > before.json
      ollama-guard bench --compare before.json
      ollama-guard bench --markdown >> README.md

    Each model is loaded, asked for a basic, a code and a complex answer, and unloaded, one after the other.
    One that would not fit now is refused, by the judgement of `fit`; so is one that somebody is using. One
    that is loaded and idle is asked, and stays loaded. Models of the cloud are left out. A run ends by itself
    before memory gets short. Ctrl-C ends it: what is measured by then is shown, and the model unloaded.

    A running guard learns what the models take, as from every load; without one nothing is kept.

    Exit codes: 0 measured; 1 a model that was named was not, or one failed, or memory got short; 69 Ollama
    does not answer; 130 interrupted.
    """
    from ollama_guard.cli.benchrun import EXIT_OK, Wish, run

    if as_json and markdown:
        raise typer.BadParameter("allowed: one of --json and --markdown", param_hint="--markdown")
    seconds = seconds_of(timeout, "--timeout")
    if seconds <= 0:
        raise typer.BadParameter("allowed: longer than 0s", param_hint="--timeout")
    old = None if compare is None else _read(compare)
    wish = Wish(tuple(models or ()), repeat, tokens, seconds)
    measured, code = run(places(context, config, runtime_dir, state_dir), wish)
    comparison = None
    if old is not None:
        from ollama_guard.core.benchcompare import compared

        comparison = compared(old, measured)
    _print(measured, comparison, as_json=as_json, markdown=markdown)
    if code != EXIT_OK:
        raise typer.Exit(code)


def _read(path: Path) -> Bench:
    """The older run, before anything is measured: a wrong file costs nobody minutes."""
    from ollama_guard.core.benchmark import NotABench, read

    try:
        with path.open("rb") as file:
            content = file.read(OLD_BYTES + 1)
    except OSError as problem:
        raise GuardError(f"{path} can't be read: {problem.strerror}") from None
    if len(content) > OLD_BYTES:
        raise GuardError(f"{path}: it is longer than {OLD_BYTES >> 20} MiB, which no run of bench is")
    try:
        return read(content.decode("utf-8", "replace"))
    except NotABench as problem:
        raise GuardError(f"{path}: {problem}") from None


def _print(measured: Bench, comparison: Comparison | None, *, as_json: bool, markdown: bool) -> None:
    from ollama_guard.core.benchtext import notes

    told = notes(measured) + list(comparison.caveats if comparison else ())
    if as_json:
        _write([_document(measured, comparison)])
    elif markdown:
        _write(_markdown(measured, comparison))
    else:
        _write([*_text(measured, comparison), *([""] if told else []), *told])
        return
    for line in told:
        typer.echo(line, err=True)


def _write(lines: Sequence[str]) -> None:
    """To where it was asked for; where that can't be written, minutes of measuring are not lost with it."""
    try:
        for line in lines:
            typer.echo(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        for line in lines:
            typer.echo(line, err=True)
        # What Python still holds back for it would fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise GuardError(f"the results can't be written ({problem.strerror}): they stand above") from None


def _document(measured: Bench, comparison: Comparison | None) -> str:
    from ollama_guard.core.codec import to_plain

    document = to_plain(measured)
    if comparison is not None:
        document["comparison"] = to_plain(comparison)
    return json.dumps(_rounded(document), ensure_ascii=False, indent=2)


def _rounded(plain: Any) -> Any:
    """To a microsecond: what is below is noise that makes numbers hard to read."""
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_rounded(value) for value in plain]
    return round(plain, 6) if isinstance(plain, float) else plain


def _markdown(measured: Bench, comparison: Comparison | None) -> list[str]:
    from ollama_guard.core import benchtext

    lines = [*benchtext.markdown(benchtext.HEADINGS, benchtext.rows(measured)), "", benchtext.about(measured)]
    if comparison is not None and comparison.changes:
        lines += ["", *benchtext.markdown(benchtext.CHANGED, benchtext.change_rows(comparison))]
    return lines


def _text(measured: Bench, comparison: Comparison | None) -> list[str]:
    from ollama_guard.cli.models import table
    from ollama_guard.core import benchtext

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    cells = benchtext.rows(measured)
    if not cells:
        lines = ["no model was measured"]
    else:
        lines = _fitting(table([benchtext.HEADINGS, *cells]), benchtext.narrow(measured), width)
        lines += ["", benchtext.about(measured)]
    if comparison is not None and comparison.changes:
        changes = benchtext.change_rows(comparison)
        shown = table([benchtext.CHANGED, *changes])
        lines += ["", *_fitting(shown, benchtext.narrow_changes(comparison), width)]
    return lines


def _fitting(wide: list[str], narrow: list[str], width: int | None) -> list[str]:
    return wide if width is None or max(map(len, wide)) <= width else narrow
