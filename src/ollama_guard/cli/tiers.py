"""``tiers``: the user's ladder of models, and which of them may be used now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import typer

from ollama_guard.cli.models import fits_text, footprint_text, table
from ollama_guard.cli.nearest import names_of, nearest
from ollama_guard.cli.options import (
    ConfigOption,
    JsonOption,
    Places,
    RuntimeDirOption,
    StateDirOption,
    places,
)
from ollama_guard.core.events import one_line

HEADINGS = ("TIER", "MODEL", "INSTALLED", "FOOTPRINT", "FITS NOW", "ALLOWED", "FOR")
WORDS = {True: "yes", False: "no", None: "?"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tiers")(tiers)


def tiers(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Which tiers of your ladder may be used now, and why?

    \b
      ollama-guard tiers
      ollama-guard tiers --json | jq -r .largest_allowed
      curl --unix-socket /run/ollama-guard/status.sock http://guard/tiers

    The ladder is what `[[tiers]]` says in the configuration. FOOTPRINT is as measured, or with a ~ before it
    as you expect it or its file lets foresee. FITS NOW is the answer of `fit`; ALLOWED falls with memory at
    once and rises after quiet. Programs ask the status socket, or read the status file.
    """
    where = places(context, config, runtime_dir, state_dir)
    document, installed = _told(where)
    for row in document["tiers"]:
        if row["installed"] is False:
            row["nearest"] = nearest(row["model"], installed)
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for line in lines(document):
        typer.echo(line)


def lines(document: Mapping[str, Any]) -> list[str]:
    """The ladder as a person reads it, and a sentence for each tier that is not as it should be."""
    rows = document["tiers"]
    if not rows:
        why = document["unknown"]["largest_allowed"]
        return [f"there is no ladder: {why}; `ollama-guard init` proposes one of the installed models"]
    largest = document["largest_allowed"]
    position = f"largest allowed: {largest}" if largest else document["unknown"]["largest_allowed"]
    return [
        *table([HEADINGS, *(_cells(row) for row in rows)]),
        "",
        one_line(position),
        *(one_line(f"{row['name']}: {why}") for row in rows for why in _remarks(row)),
    ]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["model"],
        WORDS[row["installed"]],
        footprint_text(row),
        fits_text(row),
        WORDS[row["allowed"]],
        row["for"],
    )


def _remarks(row: Mapping[str, Any]) -> Iterable[str]:
    """Why it is not allowed, and what is odd about it."""
    alike = row.get("nearest")
    if not row["allowed"]:
        yield f"{row['reason']}; did you mean {' or '.join(alike)}?" if alike else row["reason"]
    elif row["same_model_as"]:
        yield row["reason"]
    if row.get("smaller_than"):
        yield f"it needs less memory than {row['smaller_than']} before it; tiers go from small to large"


def _told(where: Places) -> tuple[dict[str, Any], list[str]]:
    """The running guard's ladder and the names of what is installed; without a guard, those of one look."""
    from ollama_guard.cli.client import NotRunning, get_models, get_tiers

    try:
        document = get_tiers(where.runtime_dir)
        missing = any(row["installed"] is False for row in document["tiers"])
        return document, names_of(get_models(where.runtime_dir)) if missing else []
    except NotRunning as error:
        typer.echo(f"{error}; this is one look without it:", err=True)
    from ollama_guard.cli.glance import glance
    from ollama_guard.core.tierstatus import view
    from ollama_guard.settings.compiler import compile_file
    from ollama_guard.store.footprints import read_only

    seen = glance(compile_file(where.config), read_only(where.state_dir / "footprints.sqlite"))
    installed = [name for entry in seen.snapshot.catalogue for name in entry.names]
    return view(seen.policy, seen.state, seen.snapshot), installed
