"""``release``: everything that the guard ever set is undone, through the daemon and without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_guard.cli.init import ROOT
from ollama_guard.cli.options import (
    ConfigOption,
    JsonOption,
    Places,
    RuntimeDirOption,
    StateDirOption,
    places,
)
from ollama_guard.core.events import one_line

if TYPE_CHECKING:
    from ollama_guard.cli.undoing import Undone


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("release")(release)


def release(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
    root: Annotated[Path | None, ROOT] = None,
) -> None:
    """Undo everything that the guard ever set: files, constraints, limits, hidden models.

    \b
      sudo ollama-guard release

    One line for each thing that was undone. First by the running guard, if there is one; then what `init`
    wrote: each file becomes what it was before, or loses our lines if it was edited since. Nothing else is
    touched, and nothing is restarted: what Ollama was started with holds until its next start.

    Exit code 1 if something could not be undone; its line then ends with the command that does it.
    """
    where = places(context, config, runtime_dir, state_dir)
    undone = list(_undone(where, root.absolute() if root else Path("/")))
    ok = all(one.ok for one in undone)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "undone": [{"ok": o.ok, "text": o.text} for o in undone]}, indent=2))
    else:
        for one in undone:
            typer.echo(one_line(one.text), err=not one.ok)
        if not undone:
            typer.echo("there is nothing to undo")
    if not ok:
        raise typer.Exit(1)


def _undone(where: Places, root: Path) -> Iterator[Undone]:
    from ollama_guard.cli.client import NotRunning, act
    from ollama_guard.cli.undoing import Undone

    try:
        answer = act(where.runtime_dir, "/release", {})
    except NotRunning:
        pass
    else:
        yield Undone(ok=answer["ok"], text=f"the guard: {answer['text']}")
        if not answer["ok"]:
            return  # a playbook in the middle needs these files
    yield from _without_daemon(where, root)


def _without_daemon(where: Places, root: Path) -> Iterator[Undone]:
    from ollama_guard.cli.leftovers import (
        deleted,
        environment_file,
        limits,
        model_folders,
        policy_or_default,
    )
    from ollama_guard.cli.undoing import forget, undo_files
    from ollama_guard.cli.unhiding import unhide
    from ollama_guard.cli.written import Record

    record = Record.load(root)
    policy = policy_or_default(root, where.config)
    folders = model_folders(policy, root, where.state_dir)
    yield from environment_file(root, where.state_dir)
    yield from limits(root, where.state_dir, policy)
    yield from unhide(folders)
    yield from deleted(root, where.state_dir)
    yield from undo_files(record)
    yield from forget(record)
