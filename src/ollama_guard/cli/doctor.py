"""``doctor``: what is set up wrong on this machine, why it matters, and what mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_guard.cli.init import ROOT
from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line

if TYPE_CHECKING:
    from ollama_guard.core.finding import Finding


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
      ollama-guard doctor --json | jq -r '.findings[] | select(.severity == "serious") | .id'
      sudo ollama-guard doctor && echo "nothing serious"

    Each finding says what is so, why it matters, and the one thing that mends it: the exact line and where
    it goes, for how Ollama is run here. Serious is what can cost the machine, the server, or what the guard
    promises; the rest is advice. What could not be looked at is said too, with the reason: much of it only
    root may read. docs/doctor.md tells of every finding.

    Exit code 0 if nothing serious was found, 1 if something was.
    """
    from ollama_guard.cli.closer import examined
    from ollama_guard.cli.guard_facts import guard_facts
    from ollama_guard.core.checkup import examine
    from ollama_guard.core.finding import Severity

    where = places(context, config, runtime_dir, state_dir)
    top = root.absolute() if root else Path("/")
    policy, facts, status = guard_facts(where, top)
    machine = examined(policy, top, where, status)
    findings = examine(machine, facts, policy)
    unknown = {**facts.unknown, **machine.unknown}
    if as_json:
        document = {"findings": [_plain(finding) for finding in findings], "unknown": unknown}
        text = json.dumps(document, ensure_ascii=False, indent=2)
        typer.echo(text.encode("utf-8", "backslashreplace"))  # what is no text anywhere is JSON's \udcff
    else:
        for line in _told(findings, unknown):
            typer.echo(line)
    if any(finding.severity is Severity.SERIOUS for finding in findings):
        raise typer.Exit(1)


def _plain(finding: Finding) -> dict[str, str]:
    """``check`` is ``id`` by its older name."""
    return {
        "id": str(finding.check),
        "severity": str(finding.severity),
        "what": finding.what,
        "why": finding.why,
        "mend": finding.mend,
        "check": str(finding.check),
    }


def _told(findings: Sequence[Finding], unknown: Mapping[str, str]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.check} ({finding.severity}): {one_line(finding.what)}"
        yield f"  why: {one_line(finding.why)}"
        yield f"  mend: {one_line(finding.mend)}\n"
    for what, why in unknown.items():
        yield f"could not look at {one_line(what)}: {one_line(why)}"
    if not findings:
        yield "nothing was found in what could be looked at" if unknown else "all is well: nothing was found"
