"""``init``: what suits this machine, as files; ``--apply`` writes them. Nothing is ever restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ollama_guard.cli.options import ConfigOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line

ROOT = typer.Option("--root", parser=Path, metavar="DIR", hidden=True, help="Write below this folder.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(
    context: typer.Context,
    apply: Annotated[bool, typer.Option("--apply", help="Write it, after showing what changes.")] = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
    root: Annotated[Path | None, ROOT] = None,
) -> None:
    """What suits this machine, and prevents most freezes.

    \b
      ollama-guard init                what it would be, and why; nothing is written
      sudo ollama-guard init --apply   shows what changes, keeps a copy of each file, writes

    It writes the configuration; for a systemd unit a drop-in with the environment that bounds Ollama and
    OOMPolicy=continue; for a container of compose's an override file beside the compose file, with a
    memory limit. For other containers and for a bare process it says what to add. What you have set
    yourself stays as it is. Nothing is restarted: it says which command makes it effective.
    `ollama-guard release` takes it all away.
    """
    from ollama_guard.cli.applying import applied, proposed
    from ollama_guard.cli.drafts import owners_text, plan_of
    from ollama_guard.cli.survey import survey
    from ollama_guard.cli.written import Record
    from ollama_guard.settings.compiler import DEFAULT_PATH, compile_text

    where = places(context, config, runtime_dir, state_dir)
    record = Record.load(root.absolute() if root else Path("/"))
    path = str(where.config or DEFAULT_PATH)
    machine = survey(compile_text(owners_text(record, path), path), record.root)
    plan = plan_of(machine, record, path, where.state_dir / "env")
    shown = applied(plan, record, where.state_dir / "env") if apply else proposed(plan)
    for text in shown:
        typer.echo(text)
    for title, lines in plan.by_hand:
        typer.echo("\n".join([f"==> {title}", *lines, ""]))
    for note in plan.notes:
        typer.echo(f"* {one_line(note)}")
    if not apply:
        typer.echo(
            "\nNothing was written. `ollama-guard init --apply` does that, and keeps a copy of each file."
        )
