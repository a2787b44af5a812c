"""Page cache as relief: when a container is short, nothing idle is left, and its cache counts as used.

Page cache counts as available anyway, save its active part while refaults rise: then some of it is in use,
and which part nobody can tell from outside. Asked for so many bytes, the kernel takes the coldest; what is in
use comes back within seconds, the rest stays away. So it is tried where it could suffice, and not soon again.
"""

from __future__ import annotations

from ollama_guard.core.model import HOST, Action, ActionKind, DomainReading, Level, Rung
from ollama_guard.core.scene import Scene

# Seconds until it is tried again in the same domain: what is in use is back by then, and shows in refaults.
AGAIN_SECONDS = 60.0
# Seconds for the whole of it, in chunks: clean cache goes at GiB a second, what is dirty waits for a disk.
DEADLINE_SECONDS = 10.0


def wanted_bytes(scene: Scene, reading: DomainReading, level: Level, need: int) -> int:
    """How much to reclaim in this domain for the ``need`` bytes that it is short of; 0 for not at all.

    At critical there is no time to find out whether it helps, and the host has no cgroup of its own.
    """
    if level >= Level.CRITICAL or reading.name == HOST or not reading.path:
        return 0
    if need <= 0 or (reading.cache_bytes or 0) < need or _tried(scene, reading.name):
        return 0
    return need


def action(scene: Scene, reading: DomainReading, size: int, reason: str) -> Action:
    """The action that asks for ``size`` bytes, complete but for its id."""
    return Action(
        id=0,
        kind=ActionKind.RECLAIM,
        rung=Rung.RECLAIM,
        deadline_at=scene.now + DEADLINE_SECONDS,
        expected_bytes=size,
        domain=reading.name,
        reason=reason,
        cgroup=reading.path,
    )


def _tried(scene: Scene, name: str) -> bool:
    """Whether a reclaim is under way in this domain, or ended a short while ago."""
    if any(a.kind is ActionKind.RECLAIM and a.domain == name for a in scene.state.in_flight):
        return True
    return any(
        done.kind is ActionKind.RECLAIM and done.domain == name and scene.now - outcome.at < AGAIN_SECONDS
        for done, outcome in scene.state.finished
    )
