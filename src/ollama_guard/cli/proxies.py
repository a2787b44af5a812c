"""The LiteLLM proxies that run on this machine, and what each ignores of its configuration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ollama_guard.cli.bounded import read_within, why
from ollama_guard.core.machine import Proxy
from ollama_guard.core.said import DEFAULT_PORT
from ollama_guard.errors import ConfigError

_PROC = Path("/proc")
# Processes looked at, and seconds for all of them: ten take a millisecond, when the machine is calm.
MOST_PROCESSES, LOOK_SECONDS = 4000, 10.0
# Words of a command line: its options stand among the first.
_MOST_BYTES = 1 << 16
_PROGRAM = "litellm"


def proxies(url: str, unknown: dict[str, str]) -> tuple[Proxy, ...]:
    """Each that was started with a configuration that leads to this Ollama.

    One whose configuration can't be read is told in ``unknown``: it might.
    """
    found = []
    for pid, config in _started(unknown):
        try:
            text = read_within(_PROC / str(pid) / "root" / config.relative_to("/"))
            if leads_to(text, url):
                found.append(Proxy(pid, str(config), _ignored(text, config)))
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


def _ignored(text: str, config: Path) -> tuple[str, ...]:
    """The remarks on keys that are not read."""
    from ollama_guard.integrations.check import check

    return tuple(f"line {one.line}: {one.sentence}" for one in check(text, str(config)) if one.ignored)


def _started(unknown: dict[str, str]) -> Iterator[tuple[int, Path]]:
    """(pid, its configuration) of each process whose own argv says that it is LiteLLM's proxy."""
    until = time.monotonic() + LOOK_SECONDS
    pids = [entry.name for entry in _PROC.iterdir() if entry.name.isdecimal()]
    for looked, pid in enumerate(pids):
        if looked >= MOST_PROCESSES or time.monotonic() > until:
            unknown["LiteLLM"] = f"there are {len(pids)} processes, and time for {looked}"
            return
        with contextlib.suppress(OSError):
            config = config_of(_argv(pid))
            if config:
                yield int(pid), Path(config if config.startswith("/") else f"{_folder(pid)}/{config}")


def _argv(pid: str) -> list[str]:
    with (_PROC / pid / "cmdline").open("rb") as file:
        return file.read(_MOST_BYTES).decode("utf-8", "surrogateescape").split("\0")


def _folder(pid: str) -> str:
    """Where it runs, as itself says it; only its own user and root may look."""
    return str((_PROC / pid / "cwd").readlink())


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
