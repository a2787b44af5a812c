"""The document of ``models`` and ``fit``: what each installed model costs, and whether it would fit now."""

from __future__ import annotations

from typing import Any

from ollama_guard.core import condemned, fit, sane
from ollama_guard.core.model import CatalogueEntry, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.runners import names_of
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import State

UNLOADED = "unloaded"
CONDEMNED = "condemned"


def view(policy: Policy, state: State, snapshot: Snapshot) -> dict[str, Any]:
    """One row for each blob, its names sorted; bytes, never strings; null is what is not known.

    Args:
        policy: the owner's.
        state: as `decide` returned it for this snapshot.
        snapshot: the tick's readings, with catalogue and footprints.
    """
    snapshot = sane.snapshot_of(snapshot, state.last_tick_at)
    scene = Scene.of(policy, state, snapshot)
    rows = [_row(scene, entry) for entry in snapshot.catalogue]
    unknown = {}
    if not rows:
        said = snapshot.api.error or snapshot.api.loaded_error
        unknown["models"] = said or "Ollama has told of no installed model yet"
    return {
        "level": state.level.word,
        "models": sorted(rows, key=lambda row: str(row["name"])),
        "unknown": unknown,
    }


def _row(scene: Scene, entry: CatalogueEntry) -> dict[str, Any]:
    names = names_of(entry.blob, scene.snapshot) or (None,)
    runner = next((r for r in scene.runners if r.reading.blob == entry.blob), None)
    told = fit.judge(scene, entry)
    doomed = condemned.active(scene.state.durable, entry.blob, scene.now) is not None
    return {
        "name": names[0],
        "aliases": list(names[1:]),
        "blob": entry.blob,
        "size_bytes": sane.count(entry.size_bytes),
        "footprint_bytes": told.needs_bytes,
        "footprint_measured": told.measured,
        "fits": told.fits,
        "would_unload": [victim.title for victim in told.victims],
        "short_bytes": told.short_bytes,
        "reason": told.reason,
        "preference": str(scene.policy.rule_of(entry.names).preference),
        "state": str(runner.activity) if runner else CONDEMNED if doomed else UNLOADED,
        "pid": runner.reading.pid if runner else None,
    }
