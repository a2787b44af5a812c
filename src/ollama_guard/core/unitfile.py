"""What the files of a systemd unit come to, as far as advice needs it. Pure: texts in, facts out.

A file that is broken is read as far as it goes, as systemd itself does: one bad line costs that line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from ollama_guard.core.machine import UnitFacts
from ollama_guard.core.protection import DROP_IN, is_guards


def unit_of(name: str, texts: Sequence[tuple[str, str]]) -> UnitFacts:
    """The facts of a unit's files, ``(path, text)`` in the order in which systemd applies them."""
    environment: dict[str, str] = {}
    files: list[str] = []
    overruling: list[str] = []
    oom_policy = ""
    for path, text in texts:
        for key, value in _service(text):
            match key:
                case "OOMPolicy":
                    oom_policy = value
                case "Environment":
                    environment = {**environment, **_assignments(value)} if value else {}
                case "EnvironmentFile":
                    file = value.removeprefix("-")
                    files = [*files, file] if file else []
                    if file and path.endswith(".conf") and path.rpartition("/")[2] > DROP_IN:
                        overruling.append(file)
    guarded = any(map(is_guards, files))
    paths = tuple(path for path, _ in texts)
    return UnitFacts(name, oom_policy, environment, paths, guarded, tuple(files), tuple(overruling))


def _service(text: str) -> Iterator[tuple[str, str]]:
    """(key, value) of each line of ``[Service]``; a backslash at a line's end goes on in the next."""
    section, before = "", ""
    for raw in text.splitlines():
        line = before + raw.strip()
        before = ""
        if line.startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            before = f"{line[:-1]} "
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == "Service" and "=" in line:
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


def _assignments(value: str) -> dict[str, str]:
    """The ``KEY=VALUE`` words of an ``Environment=``; {} where its quotes don't match."""
    try:
        words = shlex.split(value)
    except ValueError:
        return {}
    return {key: said for key, separator, said in (word.partition("=") for word in words) if separator}
