"""Whether a server is held on purpose: by a debugger, or by the freezer of a cgroup above it.

Such a server is silent like a frozen one and must be left alone (design, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ollama_guard.sentinel.sensors.cgtree import CgroupTrees
from ollama_guard.sentinel.sensors.files import KeptFile
from ollama_guard.sentinel.sensors.tracked import Key, Server

# Seconds between two looks at one server (0.1 ms for its status and two files): nobody attaches a debugger
# and is taken for a freeze in less, since a silence has to last for `unresponsive_after` (2 s at least).
LOOK_SECONDS = 1.0


@dataclass(slots=True)
class _Watched:
    """One server's freezer files, and what the last look at them said."""

    membership: bytes
    files: list[KeptFile]
    due_at: float = float("-inf")
    held: tuple[bool, bool] = field(default=(False, False))

    def close(self) -> None:
        """Give every descriptor back."""
        for file in self.files:
            file.close()


class Restraints:
    """By server; those that are not asked for any more are forgotten with `keep`."""

    def __init__(self, trees: CgroupTrees) -> None:
        self._trees = trees
        self._watched: dict[Key, _Watched] = {}

    def look(self, server: Server, now: float) -> tuple[bool, bool]:
        """(traced, frozen), at most `LOOK_SECONDS` old."""
        watched = self._watched.get(server.key)
        if watched is None or watched.membership != server.membership:
            if watched is not None:
                watched.close()
            files = [KeptFile(path) for path in self._trees.freezers(server.membership)]
            watched = self._watched[server.key] = _Watched(server.membership, files)
        if now >= watched.due_at:
            watched.due_at = now + LOOK_SECONDS
            frozen = any(is_frozen(file.read() or b"") for file in watched.files)
            watched.held = (server.process.status().traced, frozen)
        return watched.held

    def keep(self, keys: frozenset[Key]) -> None:
        """Forget all servers but these."""
        for key in self._watched.keys() - keys:
            self._watched.pop(key).close()

    def close(self) -> None:
        """Give every descriptor back."""
        self.keep(frozenset())


def is_frozen(data: bytes) -> bool:
    """A v2 ``cgroup.events`` or v1 ``freezer.state`` text; FREEZING is a freeze that some still resist."""
    return data.strip() in (b"FROZEN", b"FREEZING") or b"frozen 1" in data.splitlines()
