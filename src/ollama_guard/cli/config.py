"""``check-config``: is the file right, and what does it come to?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ollama_guard.cli.options import ConfigOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.errors import ConfigError
from ollama_guard.settings.deadline import within

READ_SECONDS = 10.0  # seconds: a person waits, but not for ever, for a disk that hangs


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check-config")(check_config)


def check_config(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(parser=Path, metavar="PATH", help="The file, instead of --config.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the effective file: every key in force.")
    ] = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Check a configuration file; nothing is changed.

    \b
      ollama-guard check-config                     the installed file
      ollama-guard check-config ./my.toml           before installing it
      ollama-guard check-config --show > full.toml  with every key written out

    Exit code 0 if it is right; 78 with one line per problem: file, line, key, and what is allowed.
    """
    where = places(context, path or config, runtime_dir, state_dir)

    def check() -> str:
        from ollama_guard.settings.compiler import DEFAULT_PATH, compile_file, read_text
        from ollama_guard.settings.effective import effective_toml
        from ollama_guard.settings.ignored import hints

        policy = compile_file(where.config)
        if show:
            return effective_toml(policy)
        if where.config is None and not DEFAULT_PATH.exists():
            return f"{DEFAULT_PATH}: there is no such file; the built-in defaults are in force\n"
        origin = where.config or DEFAULT_PATH
        told = "".join(f"{hint}\n" for hint in hints(read_text(where.config), str(origin)))
        return f"{told}{origin}: good\n"

    try:
        typer.echo(within(READ_SECONDS, check), nl=False)
    except TimeoutError:
        raise ConfigError([f"{where.config}: it could not be read within {READ_SECONDS:.0f} s"]) from None
