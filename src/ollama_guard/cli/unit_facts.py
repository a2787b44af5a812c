"""What `init` and `doctor` know of a server's unit: what its files say, and what systemd makes of them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from ollama_guard.cli.bounded import read_within, why
from ollama_guard.cli.glance import ANSWER_SECONDS
from ollama_guard.core.machine import UnitFacts
from ollama_guard.core.model import ServerReading
from ollama_guard.core.unitfile import unit_of
from ollama_guard.errors import RuntimeFailed

# Where systemd looks for a unit, the first that has it wins; drop-ins count in all of them (systemd.unit(5)).
UNIT_DIRS = (
    "etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system",
    "lib/systemd/system",
)  # fmt: skip


def unit_facts(
    name: str, server: ServerReading, root: Path, unknown: dict[str, str], bus: str = ""
) -> UnitFacts | None:
    """What the files of a server's unit say; None where they can't be known, which is told in ``unknown``.

    Of OOMPolicy systemd itself is asked (at ``bus``, "" for the usual one): its own default counts, too.
    """
    if "/user@" in (server.cgroup or ""):
        unknown["unit"] = f"{name} is of a user's own systemd, whose files are not looked at"
        return None
    try:
        unit = read_unit(name, root)
    except OSError as error:
        unknown["unit"] = f"{error.filename}: {why(error)}; what the files of {name} say is not judged"
        return None
    return replace(unit, oom_policy=_oom_policy(server.pid, bus) or unit.oom_policy)


def _oom_policy(pid: int, bus: str) -> str:
    """What is in force for a server, "" where systemd can't be asked, or is older than OOMPolicy (243)."""
    from ollama_guard.hands.adapters.systemd.bus import calls

    with contextlib.suppress(RuntimeFailed), calls(bus, ANSWER_SECONDS) as call:
        return str(call.properties(call.path("GetUnitByPID", "u", pid), "Service").get("OOMPolicy") or "")
    return ""


def read_unit(name: str, root: Path) -> UnitFacts:
    """The facts of a unit's files below ``root``, in the order in which systemd applies them.

    Raises:
        OSError: one of them can't be read; its ``filename`` says which.
    """
    folders = [root / folder for folder in UNIT_DIRS]
    main = next((folder / name for folder in folders if (folder / name).is_file()), None)
    drop_ins: dict[str, Path] = {}
    for kind in ("service.d", f"{name}.d"):  # of one name, what is for this unit hides what is for all
        for folder in reversed(folders):  # and one of /etc hides one of the same name below /lib
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                drop_ins |= {path.name: path for path in (folder / kind).iterdir() if path.suffix == ".conf"}
    paths = [*([main] if main else []), *(drop_ins[key] for key in sorted(drop_ins))]
    # One that is a link to /dev/null is there to hide others.
    return unit_of(name, [(str(path), _text(path)) for path in paths if path.is_file()])


def _text(path: Path) -> str:
    try:
        return read_within(path)
    except OSError as error:
        raise OSError(error.errno, why(error), str(path)) from None
