"""What must outlive the guard of how Ollama is run: the limits before its own, its names, what it stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path

from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.files import replace_file

LIMITS_NAME, RUNTIMES_NAME, STOPPED_NAME = "limits.json", "runtimes.json", "stopped.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RememberedLimits:
    """`LimitsBook` in the state directory; several threads may use it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LIMITS_NAME
        self._lock = threading.Lock()

    def before(self, runtime: str) -> dict[str, int] | None:
        """The owner's own limits, or None while the guard has set none."""
        return self._read().get(runtime)

    def remember(self, runtime: str, limits: dict[str, int]) -> None:
        """Keep the owner's limits, unless they are known already; raises `RuntimeFailed` if it can't."""
        with self._lock:
            known = self._read()
            if runtime not in known:
                self._write(known | {runtime: limits})

    def forget(self, runtime: str) -> None:
        """The owner's limits are in force again."""
        with self._lock:
            known = self._read()
            if known.pop(runtime, None) is not None:
                self._write(known)

    def _read(self) -> dict[str, dict[str, int]]:
        """All that is known; a file that is none of ours tells nothing, and is written anew."""
        try:
            document = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return {
            str(name): {str(key): value for key, value in limits.items() if isinstance(value, int)}
            for name, limits in (document.items() if isinstance(document, dict) else ())
            if isinstance(limits, dict)
        }

    def _write(self, known: dict[str, dict[str, int]]) -> None:
        try:
            replace_file(self._path, json.dumps(known, indent=1).encode() + b"\n")
        except OSError as problem:
            text = f"what the limits were can't be kept in {self._path}: {problem.strerror}"
            raise RuntimeFailed("denied", text) from problem


class RememberedRuntimes:
    """The names of the runtimes that servers were run by, so that a stopped one can be started again."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / RUNTIMES_NAME

    def read(self) -> tuple[tuple[RuntimeKind, str], ...]:
        """Kind and name of each; none where there is no such file."""
        try:
            document = json.loads(self._path.read_bytes())
            return tuple((RuntimeKind(entry["kind"]), str(entry["name"])) for entry in document)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ()

    def write(self, names: Iterable[tuple[RuntimeKind, str]]) -> None:
        """Keep exactly these; raises `RuntimeFailed`."""
        document = [{"kind": kind.value, "name": name} for kind, name in sorted(names)]
        try:
            replace_file(self._path, json.dumps(document, indent=1).encode() + b"\n")
        except OSError as problem:
            raise RuntimeFailed("denied", f"{self._path} can't be written: {problem.strerror}") from problem


class StoppedRuntimes:
    """The runtimes that were asked to stop and have not been started since; several threads may use it.

    The sentinel knows as much until the next boot, and Docker leaves such a container down after that.
    """

    def __init__(self, state_dir: Path, boot_id: str = "") -> None:
        self._path = state_dir / STOPPED_NAME
        self._boot_id = boot_id or this_boot()
        self._lock = threading.Lock()

    def stopping(self, name: str) -> None:
        """It is about to be stopped; raises `RuntimeFailed` if that can't be kept."""
        with self._lock:
            self._write(self._read() | {name: self._boot_id})

    def started(self, name: str) -> None:
        """It runs again, or was not stopped after all."""
        with self._lock:
            known = self._read()
            if known.pop(name, None) is not None:
                self._write(known)

    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self._read())

    def before_boot(self) -> frozenset[str]:
        """Those that were stopped before this boot."""
        return frozenset(name for name, boot_id in self._read().items() if boot_id != self._boot_id)

    def _read(self) -> dict[str, str]:
        try:
            document = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return {str(k): str(v) for k, v in document.items()} if isinstance(document, dict) else {}

    def _write(self, known: dict[str, str]) -> None:
        try:
            replace_file(self._path, json.dumps(known, indent=1).encode() + b"\n")
        except OSError as problem:
            raise RuntimeFailed("denied", f"{self._path} can't be written: {problem.strerror}") from problem


def this_boot() -> str:
    """What names this boot of the machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "?"
