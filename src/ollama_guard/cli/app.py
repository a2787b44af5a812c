"""The command line as a whole: its commands, what all of them take, and how each failure ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

import ollama_guard
from ollama_guard.cli import (
    bench,
    by_hand,
    completion,
    config,
    demo,
    doctor,
    healthcheck,
    init,
    litellm,
    look,
    models,
    notify,
    playbook,
    quarantine,
    release,
    replay,
    run,
    tiers,
)
from ollama_guard.cli.options import ConfigOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line
from ollama_guard.errors import ConfigError, GuardError, ServiceUnavailable

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69  # sysexits.h, EX_UNAVAILABLE
EXIT_CONFIG = 78  # sysexits.h, EX_CONFIG

HELP = """Keeps this machine alive while Ollama runs on it.

\b
  ollama-guard once                 what would it do right now, and why?
  ollama-guard status               what the running guard sees
  ollama-guard top                  the same, live
  ollama-guard models               what does each model take, and would it fit?
  ollama-guard fit llama3.1:8b      would this one fit now, and who would have to go?
  ollama-guard tiers                which model of my ladder may be used now?
  ollama-guard bench                how fast is each model here, and what does it take?
  ollama-guard check-config         is my file right?
  ollama-guard healthcheck          is the guard well? (for Docker and scripts)
  ollama-guard pause 30min          leave Ollama alone for a while
  ollama-guard playbook show freeze what would be done if Ollama froze?
  ollama-guard notify test          do alerts reach me?
  ollama-guard demo                 watch it at work for a minute, safely
  ollama-guard replay FILE          decide again on what was recorded
  ollama-guard quarantine list      which models are hidden from clients, and why?
  ollama-guard init                 what suits this machine, and what would prevent most freezes?
  ollama-guard doctor               what is set up wrong here, and how is it mended?
  ollama-guard litellm render       a LiteLLM proxy's configuration from the tiers
  ollama-guard release              undo everything that the guard ever set

Shell completion, of model names too: ollama-guard --install-completion

Exit codes: 0 done, 1 no or failed, 2 usage, 69 the guard is not running or not reachable,
78 bad configuration.
"""

app = typer.Typer(
    name="ollama-guard",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    run, look, models, config, by_hand, playbook, healthcheck, replay, demo, quarantine, notify, init, doctor,
    release, tiers, bench, litellm,
):  # fmt: skip
    group.register(app)


def _print_version(value: bool) -> None:  # noqa: FBT001 (click's callback contract)
    if value:
        typer.echo(f"ollama-guard {ollama_guard.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
    version: Annotated[  # noqa: ARG001 (its callback acts)
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = places(context, config, runtime_dir, state_dir)


def main() -> NoReturn:
    """The entry point: every failure that the guard knows is one sentence on stderr and an exit code."""
    completion.rejoin_colons()
    try:
        app()
        code = 0
    except ConfigError as error:
        code = _fail(error.problems, EXIT_CONFIG)
    except ServiceUnavailable as error:
        code = _fail([str(error)], EXIT_UNAVAILABLE)
    except GuardError as error:
        code = _fail([str(error)], EXIT_FAILED)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else EXIT_FAILED
    _leave(code)


def _fail(sentences: list[str], code: int) -> int:
    for sentence in sentences:
        typer.echo(f"ollama-guard: {one_line(sentence)}", err=True)
    return code


def _leave(code: int) -> NoReturn:
    """Exit without the noise that a closed pipe (``| head -1``) makes when Python flushes at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
