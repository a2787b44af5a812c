"""``playbook list|show|run``: which recoveries there are, what each step would do here, and one by hand."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line
from ollama_guard.core.units import seconds_text


class Wish(StrEnum):
    """What is to be done with playbooks."""

    LIST = "list"
    SHOW = "show"
    RUN = "run"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("playbook")(playbook)


def playbook(
    context: typer.Context,
    wish: Annotated[Wish, typer.Argument(metavar="list|show|run", help="What to do.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="freeze or models_dont_load.")] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With run: only tell what would be done.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """What a recovery would do here, step by step; run one.

    \b
      ollama-guard playbook list
      ollama-guard playbook show freeze
      ollama-guard playbook run freeze --dry-run
      ollama-guard playbook run freeze

    Run by hand is your own order: it needs no authority and no budget, and is done in every mode. A server
    that may never be stopped (--rm, shared namespaces, a pull under way) is not stopped by hand either.
    """
    where = places(context, config, runtime_dir, state_dir)
    if (wish is Wish.RUN) and name is None:
        raise typer.BadParameter("allowed: freeze or models_dont_load", param_hint="NAME")
    if dry_run and wish is not Wish.RUN:
        raise typer.BadParameter("allowed: with run only", param_hint="--dry-run")
    if wish is Wish.RUN and not dry_run:
        _run(where, name or "", as_json=as_json)
        return
    from ollama_guard.cli.client import get_playbooks

    document = get_playbooks(where.runtime_dir)
    known = [row for row in document["playbooks"] if name in (None, row["name"])]
    if not known:
        there = ", ".join(row["name"] for row in document["playbooks"])
        typer.echo(one_line(f"no playbook is named {name!r}; there are {there}"), err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps({**document, "playbooks": known}, ensure_ascii=False, indent=2))
        return
    lines = _listed(known) if wish is Wish.LIST else _shown(known)
    for line in [*lines, *_news(document)]:
        typer.echo(one_line(line) if line else "")


def _run(where: Any, name: str, *, as_json: bool) -> None:
    from ollama_guard.cli.client import act

    answer = act(where.runtime_dir, "/playbook", {"name": name})
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        typer.echo(one_line(answer["text"]), err=not answer["ok"])
    if not answer["ok"]:
        raise typer.Exit(1)


def _listed(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{row['name']:<18} {row['about']}" for row in rows]


def _shown(rows: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for row in rows:
        lines += ["", f"{row['name']}: {row['about']}"] if lines else [f"{row['name']}: {row['about']}"]
        for number, step in enumerate(row["steps"], 1):
            limit = step["deadline_seconds"]
            within = f" (within {seconds_text(limit)})" if limit else ""
            note = f", {step['note']}" if step["note"] else ""
            lines.append(f"  {number}. {step['step']:<12} {step['what']}{note}{within}")
        lines.append(f"  by itself: {'yes' if row['by_itself'] else 'no, ' + row['why_not_by_itself']}")
        lines.append(f"  by hand:   {'yes' if row['by_hand'] else 'no, ' + row['why_not_by_hand']}")
    return lines


def _news(document: dict[str, Any]) -> list[str]:
    """What goes on, what was found, how the last runs ended."""
    lines: list[str] = []
    running = document["running"]
    if running:
        tries = f", {running['attempts']} tries" if running["attempts"] > 1 else ""
        lines.append(f"running: {running['name']}, {running['what']}{tries} ({running['reason']})")
    if document["frozen"]:
        lines.append(f"frozen: {document['frozen']}")
    if document["spared"]:
        lines.append(document["spared"])
    ended = [run for run in document["runs"] if run["outcome"] != "running"][-3:]
    lines += [f"last: {run['name']} {run['outcome']}: {run['text']}" for run in ended]
    return ["", *lines] if lines else []
