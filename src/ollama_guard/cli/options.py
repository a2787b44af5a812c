"""What every command takes, before or after its name: where the file, the sockets and the state are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ollama_guard.settings.units import UnitError, parse_duration

DEFAULT_RUNTIME_DIR = Path("/run/ollama-guard")
DEFAULT_STATE_DIR = Path("/var/lib/ollama-guard")

# ``parser=Path``: typer's own would stat(2) each of them, and wait for ever where the disk hangs.
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        parser=Path,
        metavar="PATH",
        help="Default: /etc/ollama-guard/ollama-guard.toml, else the built-in values.",
    ),
]
RuntimeDirOption = Annotated[
    Path | None,
    typer.Option(
        "--runtime-dir",
        parser=Path,
        metavar="DIR",
        help="Where the sockets are [default: $RUNTIME_DIRECTORY, else /run/ollama-guard].",
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        parser=Path,
        metavar="DIR",
        help="What survives a reboot [default: $STATE_DIRECTORY, else /var/lib/ollama-guard].",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


@dataclass(frozen=True, slots=True)
class Places:
    """``config`` is None unless it was named; all paths are absolute."""

    config: Path | None
    runtime_dir: Path
    state_dir: Path


def seconds_of(duration: str, hint: str) -> float:
    """A duration as people write it, in seconds; ``hint`` names the option or argument that it is of."""
    try:
        return parse_duration(duration)
    except UnitError as error:
        raise typer.BadParameter(f"{duration!r} is {error}", param_hint=hint) from None


def places(
    context: typer.Context, config: Path | None, runtime_dir: Path | None, state_dir: Path | None
) -> Places:
    """What was said after the command's name, else before it, else in the environment, else the default."""
    before = context.obj if isinstance(context.obj, Places) else None
    if before is None:
        before = Places(
            None,
            _from_environment("RUNTIME_DIRECTORY", DEFAULT_RUNTIME_DIR),
            _from_environment("STATE_DIRECTORY", DEFAULT_STATE_DIR),
        )
    return Places(
        config=config.absolute() if config else before.config,
        runtime_dir=runtime_dir.absolute() if runtime_dir else before.runtime_dir,
        state_dir=state_dir.absolute() if state_dir else before.state_dir,
    )


def _from_environment(name: str, default: Path) -> Path:
    """Systemd writes several directories with colons between them; the guard's own is the first."""
    first = os.environ.get(name, "").split(":")[0]
    return Path(first) if first.startswith("/") else default
