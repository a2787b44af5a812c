"""``release``: everything that the guard ever set is undone, through the daemon and without one."""

from __future__ import annotations

import json
import time
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
    seconds_of,
)
from ollama_guard.core.events import one_line

if TYPE_CHECKING:
    from ollama_guard.cli.undoing import Undone

LOOK_SECONDS = 0.5  # seconds between two looks whether a recovery is over: it takes some seconds
WAIT = typer.Option("--wait", metavar="DURATION", help="How long to wait for a recovery that goes on.")


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
    wait: Annotated[str, WAIT] = "2min",
) -> None:
    """Undo everything that the guard ever set.

    \b
      sudo ollama-guard release

    Files, constraints, limits, hidden models: one line for each thing that was undone. First by the
    running guard, if there is one; then what `init` wrote: each file becomes what it was before, or loses
    our lines if it was edited since. Nothing else is touched, and nothing is restarted: what Ollama was
    started with holds until its next start. A recovery that goes on is waited for, and an Ollama that a
    guard which is gone has left stopped is started.

    Exit code 1 if something could not be undone; its line then ends with the command that does it.
    """
    where = places(context, config, runtime_dir, state_dir)
    _wait_for_a_recovery(where.runtime_dir, seconds_of(wait, "--wait"))
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


def _wait_for_a_recovery(runtime_dir: Path, seconds: float) -> None:
    """Until no playbook runs, or the time is over: then the guard itself says that it can't release now."""
    from ollama_guard.cli.client import get_status
    from ollama_guard.errors import ServiceUnavailable

    end, told = time.monotonic() + seconds, False
    while time.monotonic() < end:
        try:
            playbook = get_status(runtime_dir).get("playbook") or {}
        except ServiceUnavailable:
            return
        if playbook.get("state") != "running":
            return
        if not told:
            text = f"{playbook.get('name')} is running ({playbook.get('step')}): waiting for its end"
            typer.echo(text, err=True)
            told = True
        time.sleep(LOOK_SECONDS)


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
        left_stopped,
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
    yield from left_stopped(root, where.state_dir, policy)
    yield from deleted(root, where.state_dir)
    yield from undo_files(record)
    yield from forget(record)
