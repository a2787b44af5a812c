"""What the owner's files say of Ollama's environment now, beside what its process was started with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ollama_guard.cli.bounded import read_within, why
from ollama_guard.cli.written import below
from ollama_guard.core.machine import ComposeFacts, Drift, UnitFacts

# Of an environment only what is Ollama's own is looked at: the rest may hold secrets.
KEYS = ("OLLAMA_", "LLAMA_ARG_")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


class Unread(Exception):
    """A file that would have to be known, and why it is not."""


def drift_of_unit(
    unit: UnitFacts, running: Mapping[str, str], root: Path, guards_file: Path
) -> tuple[Drift, ...]:
    """Where its files say otherwise than the process has it.

    What an ``EnvironmentFile=`` sets wins over its lines, so those keys are left out; the guard's own file
    waits for Ollama's next start on purpose.

    Raises:
        Unread: one of those files can't be read.
    """
    others: set[str] = set()
    for file in (*unit.environment_files, str(guards_file)):
        others |= _keys_of(root, Path(file))
    # A percent sign is one of systemd's specifiers: what it comes to is systemd's to say.
    return _drift({k: v for k, v in unit.environment.items() if k not in others and "%" not in v}, running)


def drift_of_compose(
    compose: ComposeFacts, running: Mapping[str, str], root: Path, guards_file: Path
) -> tuple[Drift, ...]:
    """Where its compose files say otherwise than the process has it.

    What they take from variables is left out: only compose knows those.

    Raises:
        Unread: a file can't be read, or not understood.
    """
    written: dict[str, str] = {}
    for file in compose.config_files:
        path = Path(file if file.startswith("/") else f"{compose.working_dir}/{file}")
        written |= dict(_environment(_service(root, path, compose.service), path))
    guards = _keys_of(root, guards_file)
    return _drift({key: value for key, value in written.items() if key not in guards}, running)


def _drift(written: Mapping[str, str], running: Mapping[str, str]) -> tuple[Drift, ...]:
    return tuple(
        Drift(key, value, running.get(key, ""))
        for key, value in sorted(written.items())
        if key.startswith(KEYS) and value.strip() != running.get(key, "").strip()
    )


def _keys_of(root: Path, file: Path) -> set[str]:
    """The names that an environment file sets; none where there is no such file."""
    if not file.is_absolute() or set("*?[%") & set(str(file)):
        raise Unread(f"{file}: what it names is systemd's to say")
    try:
        text = read_within(below(root, file))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise Unread(f"{file}: {why(error)}") from None
    return {match[1] for line in text.splitlines() if (match := _ASSIGNMENT.match(line))}


def _service(root: Path, path: Path, service: str) -> Mapping[str, Any]:
    import yaml  # type: ignore[import-untyped, unused-ignore]

    class Words(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
        """Each scalar as it is written: compose's YAML knows no ``yes``, no ``1:30``; ``<<`` is a merge."""

        yaml_implicit_resolvers: ClassVar = {"<": [("tag:yaml.org,2002:merge", re.compile("<<"))]}

    try:
        document = yaml.load(read_within(below(root, path)), Words)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise Unread(f"{path}: {why(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 1}"
        raise Unread(f"{path}{where}: it is no YAML that can be read") from None
    services = document.get("services") if isinstance(document, dict) else None
    found = services.get(service) if isinstance(services, dict) else None
    if not isinstance(found, dict):
        return {}
    if "extends" in found:
        raise Unread(f"{path}: the service {service} extends another, which only compose can put together")
    return found


def _environment(service: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str]]:
    """What its ``environment`` sets, as a table or as a list; a key without a value is the caller's."""
    said = service.get("environment") or {}
    if isinstance(said, list):
        pairs = [line.partition("=")[::2] for line in said if isinstance(line, str) and "=" in line]
    elif isinstance(said, dict):
        pairs = [(key, value) for key, value in said.items() if isinstance(value, str)]
    else:
        raise Unread(f"{path}: environment is neither a table nor a list")
    for key, value in pairs:
        if "$" not in value.replace("$$", "") and value not in ("", "null", "~"):
            yield key, value.replace("$$", "$")
