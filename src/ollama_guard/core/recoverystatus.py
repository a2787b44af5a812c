"""What the status document says of the recovery: the runtime, the hard cap, what is hidden, the playbook."""

from __future__ import annotations

from typing import Any

from ollama_guard.core import hardcap, lines, recover
from ollama_guard.core.model import Snapshot
from ollama_guard.core.runs import HOUR_SECONDS
from ollama_guard.core.scene import Scene
from ollama_guard.core.targets import runtime_here

NOT_TOLD = "hands have not told of it yet"
OWN_AGAIN = "from its next start on Ollama has its own bound again"


def runtime(scene: Scene, unknown: dict[str, str]) -> dict[str, Any]:
    """How the guarded server is run."""
    found = runtime_here(scene)
    if found is None:
        several = len(scene.snapshot.servers) > 1
        unknown["ollama.runtime"] = "there are several servers" if several else NOT_TOLD
        return {"kind": None, "name": None}
    return {"kind": found.kind.value, "name": found.name}


def caps(scene: Scene, unknown: dict[str, str]) -> dict[str, Any]:
    """The hard cap that is in force, and the one that waits for a start."""
    found = runtime_here(scene)
    hard, waiting = hardcap.in_force(scene), hardcap.pending(scene)
    if hard is None:
        unknown["ollama.cap.hard"] = NOT_TOLD if found is None else "no line: Ollama's own bound"
    if waiting is None:
        own = lines.waits(scene) and hard is not None
        unknown["ollama.cap.pending"] = OWN_AGAIN if own else "nothing waits for a start of Ollama"
    return {"hard": hard, "pending": waiting}


def hidden(scene: Scene, unknown: dict[str, str]) -> list[dict[str, Any]] | None:
    """What is hidden from clients; times in epoch seconds."""
    store = scene.snapshot.store
    if not store.entries and not store.read_at:
        unknown["quarantine"] = store.error or NOT_TOLD
        return None
    for entry in store.entries:
        missing = {"blob": entry.blob, "size_bytes": entry.size_bytes}
        unknown |= {
            f"quarantine.{entry.name}.{key}": "it was not known when it was hidden"
            for key, value in missing.items()
            if value is None
        }
    return [
        {
            "name": entry.name,
            "alias": entry.alias,
            "blob": entry.blob,
            "how": entry.how.value,
            "since": entry.since,
            "size_bytes": entry.size_bytes,
            "needs_bytes": entry.needs_bytes,
            "reason": entry.reason,
            "returned": entry.returned,
        }
        for entry in store.entries
    ]


def playbook(scene: Scene, unknown: dict[str, str]) -> dict[str, Any]:
    """Which playbook runs, where it stands, and how many ran within the last hour; else the last one."""
    durable, snapshot = scene.state.durable, scene.snapshot
    position, last = durable.playbook, durable.runs[-1] if durable.runs else None
    step = None if position is None else position.step.value
    name = position.name.value if position is not None else last.name.value if last is not None else None
    if name is None:
        unknown["playbook.name"] = "none has run since the boot"
    if step is None:
        unknown["playbook.step"] = "none is running"
    if last is None or last.ended_at is None:
        unknown["playbook.last"] = "none has ended since the boot"
    return {
        "name": name,
        "state": recover.stands(scene),
        "step": step,
        "runs_last_hour": sum(1 for run in durable.runs if snapshot.now - run.started_at < HOUR_SECONDS),
        "last": None
        if last is None or last.ended_at is None
        else {
            "name": last.name.value,
            "outcome": last.ending.value,
            "ended_at": _wall(snapshot, last.ended_at),
            "text": last.text,
        },
    }


def _wall(snapshot: Snapshot, at: float) -> float:
    return round(snapshot.wall - (snapshot.now - at), 3)
