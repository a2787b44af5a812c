"""``unload``, ``pause``, ``resume``: through the daemon, so that there is one stream of decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ollama_guard.cli.completion import MODEL
from ollama_guard.cli.options import (
    ConfigOption,
    JsonOption,
    RuntimeDirOption,
    StateDirOption,
    places,
    seconds_of,
)
from ollama_guard.core.events import one_line
from ollama_guard.core.policy import spelled
from ollama_guard.errors import ServiceUnavailable


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("unload")(unload)
    app.command("pause")(pause)
    app.command("resume")(resume)


def unload(
    context: typer.Context,
    model: Annotated[str | None, MODEL] = None,
    every: Annotated[bool, typer.Option("--all", help="Unload every loaded model.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Unload a model, or all of them; nothing is deleted.

    \b
      ollama-guard unload llama3.2:3b
      ollama-guard unload --all
    """
    if bool(model) == every:
        raise typer.BadParameter("allowed: either one MODEL or --all", param_hint="MODEL")
    where = places(context, config, runtime_dir, state_dir)
    if model is None:
        act_and_tell(where.runtime_dir, "/unload", {"all": True}, as_json=as_json)
    else:
        act_and_tell(where.runtime_dir, "/unload", {"model": model}, as_json=as_json, named=model)


def pause(
    context: typer.Context,
    duration: Annotated[str, typer.Argument(metavar="DURATION", help='How long: 30min, 2h, "1h 30min".')],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Let the guard watch and log, but do nothing, for a while.

    \b
      ollama-guard pause 30min

    A week at most. A second pause replaces the first. A pause outlives a restart of the guard.
    """
    seconds = seconds_of(duration, "DURATION")
    if seconds <= 0:
        raise typer.BadParameter(
            "allowed: longer than 0s; `ollama-guard resume` ends a pause", param_hint="DURATION"
        )
    where = places(context, config, runtime_dir, state_dir)
    act_and_tell(where.runtime_dir, "/pause", {"seconds": seconds}, as_json=as_json)


def resume(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """End a pause.

    \b
      ollama-guard resume
    """
    where = places(context, config, runtime_dir, state_dir)
    act_and_tell(where.runtime_dir, "/resume", {}, as_json=as_json)


def act_and_tell(
    runtime_dir: Path, path: str, body: dict[str, Any], *, as_json: bool, named: str = ""
) -> None:
    """Ask for it and tell the answer; exit code 1 if it was refused or failed.

    A refused model name that is not installed gets the nearest ones.
    """
    from ollama_guard.cli.client import act

    answer = act(runtime_dir, path, body)
    if named and not answer["ok"]:
        answer["text"] = _with_nearest(runtime_dir, named, answer["text"])
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        typer.echo(one_line(answer["text"]), err=not answer["ok"])
    if not answer["ok"]:
        raise typer.Exit(1)


def _with_nearest(runtime_dir: Path, model: str, refusal: str) -> str:
    """The refusal, or, of a name that is not installed, which ones are like it, if the guard tells."""
    from ollama_guard.cli.client import get_models
    from ollama_guard.cli.nearest import names_of, unknown_model

    try:
        names = names_of(get_models(runtime_dir))
    except ServiceUnavailable:
        return refusal
    known = {spelled(name) for name in names}
    return refusal if spelled(model) in known else unknown_model(model, names)
