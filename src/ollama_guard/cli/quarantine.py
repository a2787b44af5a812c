"""``quarantine list``, ``add``, ``restore``: models hidden from clients, by hand and by the guard."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ollama_guard.cli.by_hand import act_and_tell
from ollama_guard.cli.completion import MODEL
from ollama_guard.cli.models import table
from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text
from ollama_guard.errors import ServiceUnavailable

HEADINGS = ("MODEL", "SINCE", "HOW", "NEEDS", "WHY")
HOW = {"offline": "renamed", "api": "copied", "deleted": "deleted"}

group = typer.Typer(
    name="quarantine",
    help="""Hide models from clients, without losing them.

\b
  ollama-guard quarantine list
  ollama-guard quarantine add llama3.1:70b
  ollama-guard quarantine restore llama3.1:70b

A hidden model keeps its files; only its name has moved. Clients that ask for it are told that it is not
found. It can be brought back at any time, without the guard by `mv`: see docs/quarantine.md.
""",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    group.command("list")(listed)
    group.command("add")(add)
    group.command("restore")(restore)
    app.add_typer(group)


def listed(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Which models are hidden, since when, and why.

    \b
      ollama-guard quarantine list
      ollama-guard quarantine list --json | jq '.quarantine[].name'

    A model marked as back was pulled, created or copied by a client while it was hidden.
    """
    from ollama_guard.cli.client import get_status

    status = get_status(places(context, config, runtime_dir, state_dir).runtime_dir)
    rows = status.get("quarantine")
    if not isinstance(rows, list):
        unknown = status.get("unknown")
        why = unknown.get("quarantine") if isinstance(unknown, dict) else None
        raise ServiceUnavailable(f"the guard can't tell yet what is hidden: {why or 'no reason given'}")
    if as_json:
        typer.echo(json.dumps({"quarantine": rows}, ensure_ascii=False, indent=2))
    elif not rows:
        typer.echo("no model is hidden")
    else:
        for line in table([HEADINGS, *(_cells(row) for row in rows)]):
            typer.echo(line)


def add(
    context: typer.Context,
    model: Annotated[str, MODEL],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Hide a model from clients, under all its names; nothing is deleted.

    \b
      ollama-guard quarantine add llama3.1:70b

    If it is loaded, it is unloaded. It stays hidden until `quarantine restore`, or until a client pulls it
    again. This works in every mode, since it is you who asks.
    """
    where = places(context, config, runtime_dir, state_dir)
    act_and_tell(where.runtime_dir, "/quarantine", {"model": model}, as_json=as_json, named=model)


def restore(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name from `quarantine list`.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Give a hidden model back to clients, under all its names; nothing is downloaded.

    \b
      ollama-guard quarantine restore llama3.1:70b

    The guard does not hide it again by itself after that.
    """
    where = places(context, config, runtime_dir, state_dir)
    act_and_tell(where.runtime_dir, "/restore", {"model": model}, as_json=as_json)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    since = datetime.fromtimestamp(row["since"], UTC).strftime("%Y-%m-%d %H:%MZ")
    needs = bytes_text(row["needs_bytes"]) if row["needs_bytes"] else "?"
    back = "back: a client brought it; " if row["returned"] else ""
    return (
        row["name"], since, HOW.get(row["how"], row["how"]), needs, one_line(f"{back}{row['reason']}"),
    )  # fmt: skip
