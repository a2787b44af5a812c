"""``doctor``: what is set up wrong on this machine, why it matters, and what mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ollama_guard.cli.init import ROOT
from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
    root: Annotated[Path | None, ROOT] = None,
) -> None:
    """Find what is set up wrong here; nothing is changed.

    \b
      sudo ollama-guard doctor
      ollama-guard doctor --json | jq -r '.findings[].check'

    Each finding says what is so, why it matters, and the command that mends it. What could not be looked
    at is said too, with the reason: much of it only root may read.

    Exit code 0 if nothing was found, 1 if something was.
    """
    from ollama_guard.cli.guard_facts import guard_facts
    from ollama_guard.cli.survey import survey
    from ollama_guard.core.checkup import examine

    where = places(context, config, runtime_dir, state_dir)
    top = root.absolute() if root else Path("/")
    policy, facts = guard_facts(where, top)
    machine = survey(policy, top)
    findings = examine(machine, facts)
    if as_json:
        found = [{"check": f.check, "what": f.what, "why": f.why, "mend": f.mend} for f in findings]
        typer.echo(
            json.dumps({"findings": found, "unknown": dict(machine.unknown)}, ensure_ascii=False, indent=2)
        )
    else:
        for finding in findings:
            typer.echo(f"{finding.check}: {one_line(finding.what)}")
            typer.echo(f"  why: {one_line(finding.why)}")
            typer.echo(f"  mend: {one_line(finding.mend)}\n")
        for why in machine.unknown.values():
            typer.echo(f"not looked at: {one_line(why)}")
        if not findings:
            typer.echo("nothing was found")
    if findings:
        raise typer.Exit(1)
