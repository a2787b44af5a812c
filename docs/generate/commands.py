"""ollama-guard(8): the commands out of the typer app, the rest out of its template."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from docs.generate.markup import bold, filled, inline, italic, literal
from typer.main import get_command

from ollama_guard.cli.app import app

# typer brings its own copy of click under a private name, so click's commands and parameters stay `Any` here.
Command = Any
Parameter = Any


def man_page() -> str:
    """``docs/man/ollama-guard.8``."""
    root: Command = get_command(app)
    everywhere = [p for p in root.params if not getattr(p, "hidden", False)]
    parts = {
        "COMMANDS": "\n".join(_command(name, command, everywhere) for name, command in _shown(root)),
        "OPTIONS": "\n".join(_parameter(p) for p in everywhere),
    }
    return filled("ollama-guard.8", parts)


def _shown(group: Command, before: str = "") -> Iterator[tuple[str, Command]]:
    """The commands that people see, each group followed by its own."""
    for command in group.commands.values():
        if not command.hidden:
            name = f"{before}{command.name}"
            yield name, command
            if hasattr(command, "commands"):
                yield from _shown(command, f"{name} ")


def _command(name: str, command: Command, everywhere: list[Parameter]) -> str:
    own = [p for p in command.params if not p.hidden and not any(_same(p, other) for other in everywhere)]
    usage = " ".join([bold(name), *(_usage(p) for p in own)])
    blocks = [f".SS {usage}", _help(command.help or "")]
    blocks += [_parameter(p) for p in own if p.help]
    return "\n".join(blocks)


def _same(one: Parameter, other: Parameter) -> bool:
    return bool((one.opts, one.help) == (other.opts, other.help))


def _usage(parameter: Parameter) -> str:
    shown = _names(parameter, "|")
    return shown if parameter.required else f"[{shown}]"


def _names(parameter: Parameter, between: str) -> str:
    if parameter.param_type_name == "argument":
        return italic(parameter.metavar or parameter.name.upper())
    names = between.join(bold(option) for option in [*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag or parameter.count:
        return names
    metavar = parameter.metavar or parameter.type.name.upper()
    return f"{names} {italic(metavar)}"


def _parameter(parameter: Parameter) -> str:
    return f".TP\n{_names(parameter, ', ')}\n{inline(parameter.help or '')}"


def _help(text: str) -> str:
    r"""A command's help; paragraphs after a ``\b`` are examples and stay as they are."""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith("\b"):
            blocks.append(literal(part.splitlines()[1:]))
        else:
            blocks.append(inline(" ".join(part.split())))
    return "\n.PP\n".join(blocks)
