"""The flight recorder's trace of the show: kept after everything else is cleared away."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

# Below the guard's state directory, where its flight recorder writes.
TRACES = "traces"


def keep(state_dir: Path) -> str:
    """Move what the recorder wrote to its place, instead of the last show's; says how to replay it.

    The command stands on a line of its own, to be pasted into a shell.
    """
    found = sorted(path for path in (state_dir / TRACES).glob("*") if path.is_file() and path.stat().st_size)
    if not found:
        return "There is no trace to replay: this guard recorded none."
    place = home()
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        kept = [Path(shutil.move(path, place / path.name)) for path in found]
    except OSError as error:
        return f"The trace can't be kept in {place}: {error.strerror}."
    shown = kept[0] if len(kept) == 1 else place
    return f"Every decision can be replayed:\n  {_program()} replay {_pasted(shown)}"


def home() -> Path:
    """``$XDG_STATE_HOME/ollama-guard/demo``: one show's trace, of the last that was seen to its end."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return base / "ollama-guard" / "demo"


def _program() -> str:
    """How this program is started again from where it was started: by its name only if that finds it."""
    name, started = "ollama-guard", Path(sys.argv[0])
    found = shutil.which(name)
    if not started.is_file() or (found is not None and Path(found).samefile(started)):
        return name
    return _pasted(started) if len(started.parts) > 1 else f"./{_pasted(started)}"


def _pasted(path: Path) -> str:
    """A path as a shell takes it, ``~/…`` below the home."""
    home_folder = os.environ.get("HOME", "")
    if home_folder.startswith("/") and path.is_relative_to(home_folder):
        return f"~/{shlex.quote(str(path.relative_to(home_folder)))}"
    return shlex.quote(str(path))
