"""Whether a container is there for the server that runs in it, so that it may be stopped for that one's sake.

A stop, a start or a limit is the whole container's. In an image of several programs (a web UI or a supervisor
as the first process, Ollama as its child) a frozen Ollama would cost the others theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard.core.events import one_line
from ollama_guard.core.runtime import RuntimeReading
from ollama_guard.hands.adapters.docker import readings

# Programs that only wait for the one that they have started, and for its orphans.
_REAPERS = frozenset({"docker-init", "tini", "tini-static", "dumb-init", "catatonit"})
_HINT = (
    "give Ollama a container of its own, or have its start script `exec` it; if nothing else runs in this"
    f" one, the label {readings.AUTHORITY_LABEL}=server on it says so"
)


def place_in(inspected: Mapping[str, Any], pid: int, proc: Path = Path("/proc")) -> str | None:
    """How a process stands to a container: "" for its main one, None for none of its own or one far down.

    Else it is the first process' child, and the sentence says why that is not enough.
    """
    first = readings.main_pid(inspected)
    if first == pid:
        return ""
    if first is None or first != _parent_of(pid, proc):
        return None
    command = one_line(_text(proc / str(first) / "comm"), 20) or "?"
    reaps = command in _REAPERS or readings.part(inspected, "HostConfig").get("Init") is True
    if (reaps and _is_first_child(first, pid, proc)) or readings.has_authority(inspected):
        return ""
    name = readings.name_of(inspected)
    return f"the container {name} runs {command} as its first process, which Ollama is only a child of"


def not_alone(reading: RuntimeReading, why: str) -> RuntimeReading:
    """The reading of a container that is not Ollama's alone; a memory limit would be the others' as well."""
    cannot = f"{why}: a stop or a limit would be for all that runs there"
    return replace(reading, verbs=(), cannot=cannot, hint=_HINT)


def _parent_of(pid: int, proc: Path) -> int | None:
    try:
        return int(_text(proc / str(pid) / "stat").rpartition(")")[2].split()[1])
    except (ValueError, IndexError):
        return None


def _is_first_child(first: int, pid: int, proc: Path) -> bool:
    """What a reaper has started itself; orphans that it takes over come after that."""
    children = _text(proc / str(first) / "task" / str(first) / "children").split()
    return not children or children[0] == str(pid)


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return ""
