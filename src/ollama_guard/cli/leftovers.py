"""What a guard that is not running may have left behind: constraints, limits, and hidden models' places."""

from __future__ import annotations

import contextlib
import json
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path

from ollama_guard.cli.survey import survey
from ollama_guard.cli.undoing import Undone
from ollama_guard.cli.unhiding import USUAL_FOLDERS
from ollama_guard.cli.written import below, policy_below, read_text
from ollama_guard.core.machine import Server
from ollama_guard.core.policy import Policy
from ollama_guard.core.protection import ENVIRONMENT_FILE
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.errors import ConfigError, GuardError

LIMITS_FILE = "limits.json"
"""What the limits were before the guard's first one, by runtime."""
BOOK_FILE = "quarantine.json"
"""Which models are hidden, and where their folder was found last."""


def environment_file(root: Path, state_dir: Path) -> Iterator[Undone]:
    """Take the constraints away that Ollama would read at its next start."""
    path = below(root, state_dir / "env" / ENVIRONMENT_FILE)
    text = read_text(path)
    if text is None:
        return
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        path.unlink()
    except OSError as problem:
        yield Undone(ok=False, text=f"{path} still constrains Ollama: {problem}; as root: rm {path}")
        return
    if lines:
        until = "it holds until the next start of Ollama"
        yield Undone(ok=True, text=f"no longer constrained by {', '.join(lines)} ({until})")


def limits(root: Path, state_dir: Path) -> Iterator[Undone]:
    """Say which live limits are in force that only a runtime's own command takes back."""
    path = below(root, state_dir / LIMITS_FILE)
    try:
        known = json.loads(read_text(path) or "{}")
    except ValueError:
        text = f"{path}: what the limits were can't be read; to see what they are now: docker inspect"
        yield Undone(ok=False, text=text)
        return
    for runtime, before in known.items() if isinstance(known, dict) else ():
        values = before if isinstance(before, dict) else {}
        told = ", ".join(f"{key} {value}" for key, value in values.items())
        kind, _, name = str(runtime).partition(":")
        text = f"the limits of {name[:64]} are still the guard's (before: {told or 'none'})"
        yield Undone(ok=False, text=f"{text}; {_command(kind, name, values)}")


def _command(kind: str, name: str, before: dict[str, object]) -> str:
    if kind == "systemd":
        return f"systemctl revert {name} takes runtime limits back"
    memory, swap = before.get("Memory", 0) or 0, before.get("MemorySwap", 0) or -1
    nano = before.get("NanoCpus", 0)
    cpus = f" --cpus {nano / 1e9:g}" if isinstance(nano, int) else ""
    return f"docker update --memory {memory} --memory-swap {swap}{cpus} {name[:12]}"


def deleted(root: Path, state_dir: Path) -> Iterator[Undone]:
    """Say which models are gone, since the owner wrote ``action = "delete"``: no file brings them back."""
    entries = _book(root, state_dir).get("entries")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("how") == "deleted":
            name = str(entry.get("name"))
            yield Undone(
                ok=False, text=f"{name} was deleted, as your file said: ollama pull {shlex.quote(name)}"
            )


def _book(root: Path, state_dir: Path) -> dict[str, object]:
    """What the guard wrote down of hidden models; {} where it wrote nothing that can be read."""
    try:
        book = json.loads(read_text(below(root, state_dir / BOOK_FILE)) or "{}")
    except (GuardError, ValueError):
        book = {}
    return book if isinstance(book, dict) else {}


def model_folders(config: Path | None, root: Path, state_dir: Path) -> list[Path]:
    """Where hidden models may lie: as configured, as found last, as servers say, where they usually are."""
    try:
        policy = policy_below(root, config)
    except ConfigError:
        policy = Policy()
    known = [policy.ollama.models_folder, str(_book(root, state_dir).get("path") or "")]
    told = [folder for server in survey(policy, root).servers for folder in _told(server)]
    usual = [below(root, Path(folder)) for folder in USUAL_FOLDERS]
    return [*(Path(folder) for folder in known if folder.startswith("/")), *told, *usual]


def _told(server: Server) -> Iterator[Path]:
    """Where a server's models lie on this host, by its own environment, its mounts and its user's home."""
    container = server.container
    if server.kind is RuntimeKind.DOCKER:
        if container is not None and container.models_source:
            yield Path(container.models_source)
        return
    if server.says("OLLAMA_MODELS"):
        yield Path(server.says("OLLAMA_MODELS"))
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwnam(server.user).pw_dir, ".ollama/models")
