"""``notify test``: whether the owner's webhook takes what it is told."""

from __future__ import annotations

import json
from typing import Any

import typer

from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.policy import NotifyPolicy

HELP = """Whether alerts reach you.

\b
  ollama-guard notify test
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="notify", help=HELP, no_args_is_help=True, rich_markup_mode=None)
    group.callback()(_only_a_group)
    group.command("test")(send_test)
    app.add_typer(group)


def _only_a_group() -> None:
    """Whether alerts reach you."""


def send_test(
    context: typer.Context,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Send a test alert to the webhook of [notify].

    \b
      ollama-guard notify test

    Through the running guard, as alerts go; if none runs, straight from here. Exit code 1: it was not taken.
    """
    from ollama_guard.cli.client import NotRunning, act

    where = places(context, config, runtime_dir, state_dir)
    try:
        answer = act(where.runtime_dir, "/notify", {})
    except NotRunning:
        from ollama_guard.settings.compiler import compile_file

        answer = _directly(compile_file(where.config).notify)
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        typer.echo(answer["text"], err=not answer["ok"])
    if not answer["ok"]:
        raise typer.Exit(1)


def _directly(policy: NotifyPolicy) -> dict[str, Any]:
    from ollama_guard.errors import AlertFailed
    from ollama_guard.hands.adapters.webhook import deliver, host_of
    from ollama_guard.hands.alertdoc import NO_WEBHOOK, trial_document

    text, ok = f"no guard runs; a test alert was delivered to {host_of(policy.webhook)}", True
    if not policy.webhook:
        text, ok = NO_WEBHOOK, False
    else:
        try:
            deliver(policy.webhook, trial_document(None), policy.timeout_seconds)
        except AlertFailed as problem:
            text, ok = f"no guard runs, and {problem}", False
    return {"ok": ok, "text": text, "detail": {}}
