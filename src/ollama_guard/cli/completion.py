"""What the shell completes: model names, from the running guard, if it tells them at once."""

from __future__ import annotations

import os

import typer

from ollama_guard.cli.options import places

# Seconds that a person who pressed Tab waits: a guard that needs longer completes nothing.
QUICK_SECONDS = 0.5
# How typer's script for bash asks, and where what stands before the last colon waits for `model_names`.
_ASKED = ("_OLLAMA_GUARD_COMPLETE", "complete_bash")
_HEAD = "_OLLAMA_GUARD_BEFORE_COLON"


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """The installed names that begin so; none when the guard is away, slow, or not for this user."""
    from ollama_guard.cli.client import get_models
    from ollama_guard.cli.nearest import names_of
    from ollama_guard.errors import GuardError

    said = context.params
    where = places(context, None, said.get("runtime_dir"), said.get("state_dir"))
    try:
        names = names_of(get_models(where.runtime_dir, QUICK_SECONDS))
    except GuardError:
        return []
    head = os.environ.get(_HEAD, "")
    return sorted(name.removeprefix(head) for name in names if name.startswith(head + incomplete))


def rejoin_colons() -> None:
    """Undo bash's breaking of words at colons, of which each model's name has one.

    It tells ``unload qwen2.5:3`` as the words ``unload qwen2.5 : 3``, and replaces the last of them by what
    is completed. So that is the word to complete, and what stands before it is no argument of its own.
    """
    if os.environ.get(_ASKED[0]) != _ASKED[1]:
        return
    words = os.environ.get("COMP_WORDS", "").split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    joined: list[str] = []
    for word in words:
        if joined and (word.startswith(":") or joined[-1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
    head, colon, last = joined[-1].rpartition(":")
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join([*joined[:-1], last]), str(len(joined) - 1)
    os.environ[_HEAD] = head + colon


MODEL = typer.Argument(
    metavar="MODEL", autocompletion=model_names, help="Any of its names, as in `ollama list`."
)
