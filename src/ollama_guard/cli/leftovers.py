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
from ollama_guard.errors import ConfigError, GuardError, RuntimeFailed
from ollama_guard.hands.consumers import SHORT_ID
from ollama_guard.hands.remembered import LIMITS_NAME, RememberedRuntimes, StoppedRuntimes
from ollama_guard.hands.wiring import runtime_ports
from ollama_guard.ports import RuntimePort

BOOK_FILE = "quarantine.json"
"""Which models are hidden, and where their folder was found last."""


START_SECONDS = 60.0  # seconds for one start, as in a run of the playbook
LIMIT_SECONDS = 10.0  # seconds for one runtime: each answers within one, and a person waits
UNIT_INFINITY = 2**64 - 1  # systemd's number for no limit
USEC_OF_A_PERCENT = 10_000  # microseconds of each second that are one percent of a CPU
LONG_ID = 64  # characters of a container's whole id


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


def limits(root: Path, state_dir: Path, policy: Policy) -> Iterator[Undone]:
    """Put back the live limits that were there before the guard's; says the command where that fails."""
    folder = below(root, state_dir)
    try:
        known = json.loads(read_text(folder / LIMITS_NAME) or "{}")
    except ValueError:
        text = f"{folder / LIMITS_NAME}: what the limits were can't be read; what they are: docker inspect"
        yield Undone(ok=False, text=text)
        return
    port_of = runtime_ports(folder)(policy.ollama)
    for runtime, before in known.items() if isinstance(known, dict) else ():
        kind, _, rest = str(runtime).partition(":")
        name = rest.rpartition(":")[0] if kind == RuntimeKind.SYSTEMD else rest
        values = before if isinstance(before, dict) else {}
        command = _command(kind, name, values)
        if _elsewhere(root):
            if kind == RuntimeKind.DOCKER:  # a unit's end with the boot
                yield Undone(
                    ok=False, text=f"{_shown(name)} still has limits of the guard's; there: {command}"
                )
        elif kind in (RuntimeKind.DOCKER, RuntimeKind.SYSTEMD):
            yield _unlimited(port_of(RuntimeKind(kind)), name, command)


def left_stopped(root: Path, state_dir: Path, policy: Policy) -> Iterator[Undone]:
    """Start what the guard stopped and did not live to start again."""
    folder = below(root, state_dir)
    book, kinds = StoppedRuntimes(folder), {name: kind for kind, name in RememberedRuntimes(folder).read()}
    port_of = runtime_ports(folder)(policy.ollama)
    for name in sorted(book.names()):
        kind = kinds.get(name, RuntimeKind.DOCKER)
        command = f"{'docker' if kind is RuntimeKind.DOCKER else 'systemctl'} start {shlex.quote(name)}"
        if _elsewhere(root):
            if kind is RuntimeKind.DOCKER:  # systemd starts its units at the next boot
                yield Undone(
                    ok=False, text=f"{name} may still be stopped by the guard; there, as root: {command}"
                )
            continue
        try:
            port_of(kind).start(name, START_SECONDS)
            book.started(name)
        except RuntimeFailed as problem:
            if problem.kind == "gone":
                yield Undone(ok=True, text=f"{name}, which the guard had stopped, is gone")
                continue
            text = f"{name} may still be stopped by the guard: {problem}; as root: {command}"
            yield Undone(ok=False, text=text)
        else:
            yield Undone(ok=True, text=f"{name}, which the guard had stopped, runs")


def _elsewhere(root: Path) -> bool:
    """Whether it is another machine's disk: nobody who could be asked here knows its Ollama."""
    return root.resolve() != Path("/")


def _shown(name: str) -> str:
    return name[:SHORT_ID] if len(name) == LONG_ID else name


def _unlimited(port: RuntimePort, name: str, command: str) -> Undone:
    shown = _shown(name)
    try:
        port.unlimit(name, LIMIT_SECONDS)
    except RuntimeFailed as problem:
        if problem.kind == "gone":
            return Undone(ok=True, text=f"{shown} is gone, and the guard's limits with it")
        return Undone(ok=False, text=f"{shown} still has limits of the guard's: {problem}; {command}")
    return Undone(ok=True, text=f"{shown} has the limits of its owner")


def _command(kind: str, name: str, before: dict[str, object]) -> str:
    if kind == RuntimeKind.SYSTEMD:  # not `systemctl revert`, which takes the owner's drop-ins away as well
        return (
            f"as root: {shlex.join(['systemctl', 'set-property', '--runtime', name, *_properties(before)])}"
        )
    memory, swap = before.get("Memory", 0) or 0, before.get("MemorySwap", 0) or -1
    nano = before.get("NanoCpus", 0)
    cpus = f" --cpus {nano / 1e9:g}" if isinstance(nano, int) else ""
    return f"docker update --memory {memory} --memory-swap {swap}{cpus} {name[:12]}"


def _properties(before: dict[str, object]) -> list[str]:
    """A unit's limits as they were, in the words of `systemctl`; no quota has an empty one."""
    memory, quota = before.get("MemoryMax"), before.get("CPUQuotaPerSecUSec")
    words = []
    if isinstance(memory, int):
        words.append(f"MemoryMax={'infinity' if memory >= UNIT_INFINITY else memory}")
    if isinstance(quota, int):
        words.append(f"CPUQuota={'' if quota >= UNIT_INFINITY else f'{quota / USEC_OF_A_PERCENT:g}%'}")
    return words


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


def policy_or_default(root: Path, config: Path | None) -> Policy:
    """The owner's policy; a file that is wrong must not keep anything from being undone."""
    try:
        return policy_below(root, config)
    except ConfigError:
        return Policy()


def model_folders(policy: Policy, root: Path, state_dir: Path) -> list[Path]:
    """Where hidden models may lie: as configured, as found last, as servers say, where they usually are."""
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
