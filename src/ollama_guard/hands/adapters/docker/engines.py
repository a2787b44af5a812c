"""Where a Docker may listen on this machine, and whose word counts for what.

Whoever may log in can have anything listen at a socket of their own, and say of it that it runs a server. So
theirs is asked about servers that are theirs and about containers that are known to be theirs, and what it
says of anybody else's processes, or of what the guard may do, does not count.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard.core.runtime import RuntimeReading
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker.engine import DEFAULT_ADDRESS, Engine

_USERS = Path("/run/user")
_UID = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)


class Engines:
    """The configured one alone, else the usual place and the rootless ones.

    A container of a rootless one is called ``name@uid``, so two of one name on two engines never meet.
    """

    def __init__(self, chosen: str) -> None:
        self._chosen = chosen or os.environ.get("DOCKER_HOST", "")
        self._engines: dict[tuple[str, int | None], Engine] = {}

    def believed(self, uid: int | None = None) -> list[Engine]:
        """Those that are asked about a server of this user; the usual place first, whose absence is told."""
        if self._chosen:
            return [self._at(self._chosen, None)]
        owners = {0, os.geteuid(), uid}
        return [self._at(DEFAULT_ADDRESS, None), *(e for e in self._rootless() if e.owner in owners)]

    def of(self, called: str) -> tuple[list[Engine], str]:
        """The engines that may have what is called so, never none, and its name there."""
        name, _, uid = called.partition("@")
        if not uid:
            return self.believed(), name
        theirs = [engine for engine in self._rootless() if str(engine.owner) == uid]
        if not theirs:
            raise RuntimeFailed("absent", f"the user {uid} runs no Docker that can be seen from here")
        return theirs, name

    def _rootless(self) -> list[Engine]:
        """The sockets of those who run a Docker of their own, as far as this process may see them.

        The folder's owner counts: who that is may put another socket there at any moment.
        """
        if self._chosen:
            return []
        try:
            sockets = sorted(_USERS.glob("*/docker.sock"))
            return [self._at(f"unix://{path}", path.parent.lstat().st_uid) for path in sockets]
        except OSError:
            return []

    def _at(self, address: str, owner: int | None) -> Engine:
        return self._engines.setdefault((address, owner), Engine(address, owner))


def as_told_by(engine: Engine, reading: RuntimeReading) -> RuntimeReading:
    """The reading by its own name, as far as its engine is believed: a user's, of that one's process."""
    if engine.owner is not None:
        reading = replace(reading, name=f"{reading.name}@{engine.owner}")
    if _is_trusted(engine):
        return reading
    pid = reading.server_pid
    theirs = pid is not None and _uid_of(pid) == engine.owner
    return replace(reading, authority=False, server_pid=pid if theirs else None)


def key_of(engine: Engine, inspected: Mapping[str, Any]) -> str:
    """What the limits before the guard's own are kept by.

    A container that compose made anew has the owner's limits again, so its id counts, not its name.
    """
    told_by = "" if _is_trusted(engine) else f"{engine.owner}:"
    return f"docker:{told_by}{inspected.get('Id', '')}"


def _is_trusted(engine: Engine) -> bool:
    return engine.owner in (None, 0, os.geteuid())


def _uid_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        found = _UID.search(Path(f"/proc/{pid}/status").read_bytes())
        return None if found is None else int(found[1])
    return None
