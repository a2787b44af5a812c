"""What the kernel says of the running guard's process: whose it is, and what it may do."""

from __future__ import annotations

import contextlib
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_guard.cli.bounded import argv_holds

DOCKER_SOCKET = "/var/run/docker.sock"
_CAP_KILL, _CAP_DAC_OVERRIDE, _CAP_IPC_LOCK = 5, 1, 14
_UNLIMITED = 2**63 - 1  # bytes: what "unlimited" comes to


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """None, and "" for the user, is what could not be read; ``capabilities`` is the effective mask."""

    user: str = ""
    uid: int | None = None
    groups: frozenset[int] = frozenset()
    capabilities: int | None = None
    locked_limit_bytes: int | None = None

    @property
    def may_kill(self) -> bool | None:
        """Whether it may signal everybody."""
        return None if self.capabilities is None else self._has(_CAP_KILL)

    def may_use(self, socket: Path) -> bool | None:
        """Whether it may connect to a socket by the socket's own mode; None where there is none."""
        if self.uid is None:
            return None
        try:
            found = socket.stat()
        except OSError:
            return None
        if self._has(_CAP_DAC_OVERRIDE):
            return True
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IWUSR)
        return bool(found.st_mode & (stat.S_IWGRP if found.st_gid in self.groups else stat.S_IWOTH))

    def _has(self, number: int) -> bool:
        return bool((self.capabilities or 0) >> number & 1)


def process_facts(
    status: Mapping[str, Any], unknown: dict[str, str], proc: Path = Path("/proc")
) -> ProcessFacts:
    """Of the process that the guard's status names; all of it is for everybody to read."""
    guard = status.get("guard")
    pid = guard.get("pid") if isinstance(guard, dict) else None
    if not isinstance(pid, int) or not _is_guard(proc / str(pid), unknown):
        return ProcessFacts()
    said = _table(proc / str(pid) / "status")
    uid, capabilities = said.get("Uid", "").split(), said.get("CapEff", "")
    groups = [*said.get("Gid", "").split(), *said.get("Groups", "").split()]
    mask = int(capabilities, 16) if capabilities else None
    return ProcessFacts(
        user=_name(int(uid[1])) if len(uid) > 1 else "",
        uid=int(uid[1]) if len(uid) > 1 else None,
        groups=frozenset(int(group) for group in groups if group.isdecimal()),
        capabilities=mask,
        locked_limit_bytes=_UNLIMITED if (mask or 0) >> _CAP_IPC_LOCK & 1 else _locked_limit(proc / str(pid)),
    )


def _is_guard(process: Path, unknown: dict[str, str]) -> bool:
    """Whether that number means the guard here, too: one in another PID namespace tells its own."""
    return argv_holds(process, b"ollama_guard", unknown, "the guard's process")


def _table(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def _locked_limit(process: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (process / "limits").read_text(encoding="ascii").splitlines():
            if line.startswith("Max locked memory"):
                soft = line.split()[3]
                return _UNLIMITED if soft == "unlimited" else int(soft)
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
