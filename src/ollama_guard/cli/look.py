"""``once`` and ``status``: what is, and what would be done about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ollama_guard.cli.options import (
    ConfigOption,
    JsonOption,
    Places,
    RuntimeDirOption,
    StateDirOption,
    places,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("once")(once)
    app.command("status")(status)
    app.command("top")(top)


def once(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Sense and decide once, do nothing, and say why. Needs no daemon.

    \b
      ollama-guard once
      ollama-guard once --json | jq .decision
    """
    _tell_glance(places(context, config, runtime_dir, state_dir), as_json=as_json)


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Live, once a second, as `top`.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Show what the running guard sees and did last. Without one, do what `once` does.

    \b
      ollama-guard status
      ollama-guard status --watch
      ollama-guard status --json | jq .level
    """
    if watch:
        top(context, as_json, config, runtime_dir, state_dir)
        return
    from ollama_guard.cli.client import NotRunning, get_status

    where = places(context, config, runtime_dir, state_dir)
    try:
        document = get_status(where.runtime_dir)
    except NotRunning as error:
        typer.echo(f"{error}; this is one look without it:", err=True)
        _tell_glance(where, as_json=as_json)
        return
    _tell(document, as_json=as_json)


def top(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Watch the running guard, live.

    Memory and its thresholds, models, decisions, who holds memory.

    \b
      ollama-guard top
      ollama-guard top | grep level              plain text, once a second
      ollama-guard top --json | jq -c .level     a line of JSON, once a second

    q or Ctrl-C ends it. A guard that goes away is waited for.
    """
    from ollama_guard.cli.watch import watch

    watch(places(context, config, runtime_dir, state_dir).runtime_dir, as_json=as_json)


def _tell_glance(where: Places, *, as_json: bool) -> None:
    from ollama_guard.cli.glance import glance, status_of
    from ollama_guard.settings.compiler import compile_file
    from ollama_guard.store.footprints import read_only

    measured = read_only(where.state_dir / "footprints.sqlite")
    _tell(status_of(glance(compile_file(where.config), measured)), as_json=as_json)


def _tell(document: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    from ollama_guard.cli.show import status_text

    typer.echo(status_text(document))
