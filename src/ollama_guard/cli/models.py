"""``models`` and ``fit``: what each installed model costs, and whether it would fit now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ollama_guard.cli.completion import MODEL
from ollama_guard.cli.nearest import names_of, unknown_model
from ollama_guard.cli.options import (
    ConfigOption,
    JsonOption,
    Places,
    RuntimeDirOption,
    StateDirOption,
    places,
)
from ollama_guard.core.events import one_line
from ollama_guard.core.policy import spelled
from ollama_guard.core.units import bytes_text

HEADINGS = ("MODEL", "FILE", "FOOTPRINT", "FITS NOW", "PREFERENCE", "STATE")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("models")(models)
    app.command("fit")(fit)


def models(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """What each installed model takes, and whether it fits now.

    \b
      ollama-guard models
      ollama-guard models --json | jq '.models[] | select(.fits) | .name'

    FOOTPRINT is what its last load was measured to take; with a ~ before it, what its file and its KV cache
    let foresee. FITS NOW says no where others would have to go first: `fit MODEL` tells who.
    """
    document = _listed(places(context, config, runtime_dir, state_dir))
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    if not document["models"]:
        typer.echo(one_line(f"no model is known: {document['unknown'].get('models', 'none is installed')}"))
        return
    for line in table([HEADINGS, *(_cells(row) for row in document["models"])]):
        typer.echo(line)


def fit(
    context: typer.Context,
    model: Annotated[str, MODEL],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Would a model fit now, and if not, who would have to go?

    \b
      ollama-guard fit llama3.1:8b
      ollama-guard fit llama3.1:8b && ollama run llama3.1:8b

    Exit code 0 yes; 1 no, or not as long as others are loaded, or it can't be told. Nothing is done. The
    answer is the judgement that its load would meet, with the context of its last one.
    """
    document = _listed(places(context, config, runtime_dir, state_dir))
    rows = document["models"]
    row = next((row for row in rows if spelled(model) in {spelled(name) for name in _names(row)}), None)
    if row is None:
        typer.echo(unknown_model(model, names_of(document)), err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(row, ensure_ascii=False, indent=2))
    else:
        word = {True: "yes", False: "no", None: "can't tell"}[row["fits"]]
        typer.echo(one_line(f"{word}: {row['name']}: {row['reason']}"))
    if not row["fits"]:
        raise typer.Exit(1)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, two spaces between them, each cell one line."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    names = _names(row)
    title = " = ".join(names) if names else str(row["blob"])[:19]
    return (
        title,
        "?" if row["size_bytes"] is None else bytes_text(row["size_bytes"]),
        footprint_text(row),
        fits_text(row),
        row["preference"],
        row["state"],
    )


def footprint_text(row: Mapping[str, Any]) -> str:
    """What a load of it takes; with a ~ before it, what is foreseen."""
    size, estimate = row["footprint_bytes"], "" if row["footprint_measured"] else "~"
    return "?" if size is None else f"{estimate}{bytes_text(size)}"


def fits_text(row: Mapping[str, Any]) -> str:
    """Whether it fits now, or how many would have to go for it."""
    if row["fits"] is None:
        return "?"
    if row["fits"]:
        return "yes"
    makes_room = row["would_unload"] and not row["short_bytes"]
    return f"no, unless {len(row['would_unload'])} go" if makes_room else "no"


def _names(row: dict[str, Any]) -> list[str]:
    return [row["name"], *row["aliases"]] if row["name"] else []


def _listed(where: Places) -> dict[str, Any]:
    """The running guard's list; without one, that of one look."""
    from ollama_guard.cli.client import NotRunning, get_models

    try:
        return get_models(where.runtime_dir)
    except NotRunning as error:
        typer.echo(f"{error}; this is one look without it:", err=True)
    from ollama_guard.cli.glance import glance
    from ollama_guard.core.installed import view
    from ollama_guard.settings.compiler import compile_file
    from ollama_guard.store.footprints import read_only

    seen = glance(compile_file(where.config), read_only(where.state_dir / "footprints.sqlite"))
    return view(seen.policy, seen.state, seen.snapshot)
