"""``litellm render`` and ``litellm check``: the configuration of a LiteLLM proxy in front of Ollama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.errors import ConfigError, GuardError
from ollama_guard.settings.deadline import within

READ_SECONDS = 10.0  # seconds: a person waits, but not for ever, for a disk that hangs

group = typer.Typer(
    name="litellm",
    help="""A LiteLLM proxy's configuration, made and checked.

\b
  ollama-guard litellm render > litellm.yaml
  ollama-guard litellm check litellm.yaml

With the guard's callback in it each request goes to the largest model that memory allows now; see
docs/litellm.md.
""",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    group.command("render")(rendered)
    group.command("check")(check)
    app.add_typer(group)


def rendered(
    context: typer.Context,
    *,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="TIER=NAME",
            help="What clients ask for to get this tier; may be given for each. Without it: light is "
            "gpt-3.5-turbo-light, default gpt-3.5-turbo, reasoning gpt-4, fallback gpt-4-turbo, any other "
            "tier its own name.",
        ),
    ] = None,
    ollama_url: Annotated[
        str,
        typer.Option(
            "--ollama-url", metavar="URL", help="Ollama as LiteLLM reaches it [default: as the guard does]."
        ),
    ] = "",
    callback: Annotated[
        bool,
        typer.Option("--callback/--no-callback", help="With the guard's callback, which moves requests."),
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=Path, metavar="FILE", help="Write it there; a file is not overwritten."
        ),
    ] = None,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Print a LiteLLM configuration made from the tiers.

    \b
      ollama-guard litellm render > litellm.yaml
      ollama-guard litellm render -o /etc/litellm/config.yaml
      ollama-guard litellm render --name light=small --name reasoning=clever
      ollama-guard litellm render --ollama-url http://ollama:11434     LiteLLM in another container

    Every tier is a model for clients; one that fails falls back to the smaller ones. The master key is read
    from the environment variable LITELLM_MASTER_KEY when LiteLLM starts, and is never in the file.
    """
    from ollama_guard.integrations.config import render
    from ollama_guard.settings.compiler import compile_file

    where = places(context, config, runtime_dir, state_dir)
    wanted = dict(_named(each) for each in names or [])
    if ollama_url and not ollama_url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{ollama_url!r} does not begin with http://", param_hint="--ollama-url")
    policy = compile_file(where.config)
    text = render(policy.tiers, ollama_url or policy.ollama.url, wanted, callback=callback)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise GuardError(
            f"{output} is there already and stays as it is; write to another file and compare, "
            f"or print it: ollama-guard litellm render | diff {output} -"
        ) from None
    except OSError as problem:
        raise GuardError(f"{output} can't be written: {problem.strerror}") from problem
    typer.echo(f"{output}: written; check what you change in it with `ollama-guard litellm check {output}`")


def check(
    path: Annotated[Path, typer.Argument(parser=Path, metavar="FILE", help="LiteLLM's configuration.")],
    as_json: JsonOption = False,
) -> None:
    """Name what LiteLLM ignores in a configuration, and what it would trip over; nothing is changed.

    \b
      ollama-guard litellm check /etc/litellm/config.yaml
      ollama-guard litellm check config.yaml --json | jq -r '.remarks[].key'

    LiteLLM itself says little or nothing of a key that it does not read. Each remark names the line.

    Exit code 0 if there is nothing to say, 1 if there is, 78 if it is no YAML.
    """
    from ollama_guard.integrations.check import as_json as plain
    from ollama_guard.integrations.check import check as remarks_on
    from ollama_guard.integrations.keys import VERSION

    remarks = remarks_on(_text(path), str(path))
    if as_json:
        document = {"litellm_version": VERSION, "remarks": plain(remarks)}
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        for remark in remarks:
            typer.echo(f"{path}, line {remark.line}: {remark.sentence}")
        if not remarks:
            typer.echo(f"{path}: good; LiteLLM {VERSION} reads every key in it")
    if remarks:
        raise typer.Exit(1)


def _named(text: str) -> tuple[str, str]:
    tier, equals, name = text.partition("=")
    if not equals:
        raise typer.BadParameter(
            f"{text!r} has no '='; write TIER=NAME, as in light=small", param_hint="--name"
        )
    return tier, name


def _text(path: Path) -> str:
    """Read it in a child: the disk may hang, and a pipe may have nothing to say."""
    from ollama_guard.integrations.check import decoded

    try:
        return within(READ_SECONDS, lambda: decoded(path.open("rb"), str(path)))
    except TimeoutError:
        raise ConfigError([f"{path}: it could not be read within {READ_SECONDS:.0f} s"]) from None
    except OSError as problem:
        raise ConfigError([f"{path}: it can't be read: {problem.strerror or problem}"]) from problem
