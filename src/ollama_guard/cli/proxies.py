"""The LiteLLM proxies that run on this machine, and what each ignores of its configuration."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ollama_guard.cli.bounded import READ_SECONDS, head, in_time, is_same_within, read_within, why
from ollama_guard.core.machine import Proxy
from ollama_guard.core.said import DEFAULT_PORT
from ollama_guard.errors import ConfigError

_PROC = Path("/proc")
# Processes looked at, and seconds for all of them: ten take a millisecond, when the machine is calm.
MOST_PROCESSES, LOOK_SECONDS = 4000, 10.0
# Words of a command line: its options stand among the first.
_MOST_BYTES = 1 << 16
_PROGRAM = "litellm"


def proxies(
    url: str, unknown: dict[str, str], proc: Path = _PROC, seconds: float = LOOK_SECONDS
) -> tuple[Proxy, ...]:
    """Each that was started with a configuration that leads to this Ollama.

    One whose configuration can't be read is told in ``unknown``: it might.
    """
    found = []
    started = _started(unknown, proc, seconds)
    until = time.monotonic() + seconds
    for looked, (pid, config) in enumerate(started):
        if time.monotonic() > until:
            unknown["LiteLLM"] = f"there are {len(started)} proxies, and time for {looked}"
            break
        seen = proc / str(pid) / "root" / config.lstrip("/")
        try:
            text = read_within(seen)
            if leads_to(text, url):
                here = is_same_within(seen, Path(config))
                found.append(Proxy(pid, config if here else str(seen), _ignored(text, config)))
        except OSError as error:
            unknown[f"LiteLLM's {config}"] = why(error)
        except ConfigError as error:
            unknown[f"LiteLLM's {config}"] = "; ".join(error.problems)
    return tuple(found)


def leads_to(text: str, url: str) -> bool:
    """Whether a configuration names the port of this Ollama; LiteLLM takes the usual one where none is."""
    port = url.rpartition(":")[2]
    usual = "ollama" in text and (f":{DEFAULT_PORT}" in text or "api_base" not in text)
    return f":{port}" in text or (usual and port == str(DEFAULT_PORT))


def _ignored(text: str, config: str) -> tuple[str, ...]:
    """The remarks on keys that are not read."""
    from ollama_guard.integrations.check import check

    return tuple(f"line {one.line}: {one.sentence}" for one in check(text, config) if one.ignored)


def _started(unknown: dict[str, str], proc: Path, seconds: float) -> list[tuple[int, str]]:
    """(pid, its configuration) of each process whose own argv says that it is LiteLLM's proxy.

    In a child process: a command line lies in the memory of its process, and one that is stuck holds up
    whoever reads it.
    """
    try:
        found, problems = json.loads(in_time(lambda: _search(proc, seconds), seconds + READ_SECONDS))
    except OSError as error:
        unknown["LiteLLM"] = f"the command lines of all processes: {why(error)}"
        return []
    unknown.update(problems)
    return [(pid, config) for pid, config in found]


def _search(proc: Path, seconds: float) -> str:
    until = time.monotonic() + seconds
    found: list[tuple[int, str]] = []
    problems: dict[str, str] = {}
    pids = [entry.name for entry in proc.iterdir() if entry.name.isdecimal()]
    for looked, pid in enumerate(pids):
        if looked >= MOST_PROCESSES or time.monotonic() > until:
            problems["LiteLLM"] = f"there are {len(pids)} processes, and time for {looked}"
            break
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it is gone
            config = _config_of(proc / pid, problems)
            if config:
                found.append((int(pid), config))
    return json.dumps((found, problems))


def _config_of(process: Path, problems: dict[str, str]) -> str:
    """The path that it was told, from the folder that it runs in; only its own user and root may see that."""
    try:
        config = config_of(_shown(head(process / "cmdline", _MOST_BYTES)).split("\0"))
    except PermissionError as error:
        problems["LiteLLM"] = f"the command line of process {process.name}: {why(error)}"
        return ""
    if not config or config.startswith("/"):
        return config
    try:
        folder = _shown(os.fsencode((process / "cwd").readlink()))
    except PermissionError as error:
        problems[f"LiteLLM's {config}"] = f"the folder that process {process.name} runs in: {why(error)}"
        return ""
    return f"{folder.rstrip('/')}/{config}"


def _shown(raw: bytes) -> str:
    """Foreign bytes as text that can be printed everywhere."""
    return raw.decode("utf-8", "backslashreplace")


def config_of(argv: Sequence[str]) -> str:
    """What ``litellm --config FILE`` names, also where Python runs it; "" for any other command line."""
    programs = [word.rpartition("/")[2] for word in argv[:2]]
    if _PROGRAM not in programs:
        return ""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word in ("--config", "-c"):
            return following
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return ""
