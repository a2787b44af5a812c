"""What is told of the ladder: in the status, by ``tiers``, and as an event when its position changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ollama_guard.core import allowed, fit, sane, tierfit
from ollama_guard.core.events import Event, Priority
from ollama_guard.core.model import CatalogueEntry, Snapshot
from ollama_guard.core.policy import Policy, spelled
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import State
from ollama_guard.core.tiers import Tier, TierState

NO_TIERS = "the configuration has no [[tiers]]"
NOT_JUDGED = "not judged yet"


def rows(scene: Scene, unknown: dict[str, str]) -> list[dict[str, Any]]:
    """``tiers`` of the status: each tier, small to large; ``allowed`` is null while it can't be told."""
    held = {tier.name: tier for tier in scene.state.tiers}
    unjudged = (TierState(tier.name, tier.model, None, NOT_JUDGED) for tier in scene.policy.tiers)
    return [_row(held.get(tier.name, tier), unknown) for tier in unjudged]


def _row(held: TierState, unknown: dict[str, str]) -> dict[str, Any]:
    if held.allowed is None:
        unknown[f"tiers.{held.name}.allowed"] = held.reason
    return {"name": held.name, "model": held.model, "allowed": held.allowed, "reason": held.reason}


def largest_allowed(scene: Scene, unknown: dict[str, str]) -> str | None:
    """The name of the largest tier that is allowed; None with its reason."""
    largest, tiers = allowed.top(scene.state.tiers), scene.state.tiers
    if largest is None:
        smallest = tiers[0] if tiers else None
        if not scene.policy.tiers:
            reason = NO_TIERS
        elif smallest is None or any(tier.allowed is None for tier in tiers):
            reason = next((tier.reason for tier in tiers if tier.allowed is None), NOT_JUDGED)
        else:
            reason = f"no tier is allowed now; the smallest, {smallest.name}: {smallest.reason}"
        unknown["largest_allowed"] = reason
    return largest.name if largest is not None else None


def view(policy: Policy, state: State, snapshot: Snapshot) -> dict[str, Any]:
    """The document of ``tiers``: the ladder from small to large; bytes, never strings; null is not known.

    Args:
        policy: the owner's.
        state: as `decide` returned it for this snapshot.
        snapshot: the tick's readings, with catalogue and footprints.
    """
    snapshot = sane.snapshot_of(snapshot, state.last_tick_at)
    scene = Scene.of(policy, state, snapshot)
    unknown: dict[str, str] = {}
    told = rows(scene, unknown)
    return {
        "level": state.level.word,
        "largest_allowed": largest_allowed(scene, unknown),
        "tiers": _ordered(_detailed(scene, tier, row) for tier, row in zip(policy.tiers, told, strict=True)),
        "unknown": unknown,
    }


def _ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the larger tier that stands before it, by what their models really need, or None.

    The file is checked by what its owner expects; where the installed models are the other way round, the
    position would skip a tier that is the smaller one.
    """
    ordered: list[dict[str, Any]] = []
    largest: dict[str, Any] | None = None
    for row in rows:
        real = row["blob"] is not None and row["footprint_bytes"] is not None
        behind = real and largest is not None and row["footprint_bytes"] < largest["footprint_bytes"]
        ordered.append({**row, "smaller_than": largest["name"] if largest is not None and behind else None})
        largest = row if real and not behind else largest
    return ordered


def _detailed(scene: Scene, tier: Tier, row: dict[str, Any]) -> dict[str, Any]:
    entry = tierfit.entries(scene).get(tier.name)
    told = fit.judge(scene, entry, tier.memory_bytes) if entry is not None else None
    twin = tierfit.twins(scene).get(tier.name)
    runner = next((r for r in scene.runners if entry is not None and r.reading.blob == entry.blob), None)
    return {
        **row,
        "for": tier.purpose,
        "installed": _is_installed(scene, tier, entry),
        "blob": entry.blob if entry is not None else None,
        "size_bytes": sane.count(entry.size_bytes) if entry is not None else tier.disk_bytes,
        "footprint_bytes": told.needs_bytes if told is not None else tier.memory_bytes,
        "footprint_measured": told is not None and told.measured,
        "fits": told.fits if told is not None else None,
        "would_unload": [victim.title for victim in told.victims] if told is not None else [],
        "short_bytes": told.short_bytes if told is not None else 0,
        "fits_reason": told.reason if told is not None else row["reason"],
        "same_model_as": twin.name if twin is not None else None,
        "state": str(runner.activity) if runner is not None else "unloaded",
    }


def _is_installed(scene: Scene, tier: Tier, entry: CatalogueEntry | None) -> bool | None:
    """A hidden model is; None while Ollama has not told."""
    if entry is not None or spelled(tier.model) in scene.hidden_names:
        return True
    return False if scene.snapshot.catalogue else None


def changed(before: State, after: State) -> list[Event]:
    """The event of a ladder whose position has changed, with why."""
    old, new = allowed.top(before.tiers), allowed.top(after.tiers)
    was, now = old.name if old is not None else None, new.name if new is not None else None
    if was == now or not after.tiers:
        return []
    names = [tier.name for tier in after.tiers]
    known = {tier.name: tier for tier in after.tiers}
    fell = was in known and (now is None or names.index(now) < names.index(was or ""))
    before_text = f" (before: {was})" if was is not None else ""
    why = f": {known[was or ''].reason}" if fell else ""
    if new is None:
        text = f"no tier may be used now{before_text}{why}"
    elif fell:
        text = f"the largest tier that may be used is {new.name} ({new.model}) now{before_text}{why}"
    else:
        again = " again" if was is not None else ""
        text = f"tiers up to {new.name} ({new.model}) may be used{again}{before_text}"
    fields = {"largest": now, "from": was, "model": new.model if new is not None else None}
    return [Event("tier.changed", text, Priority.WARNING if new is None else Priority.NOTICE, fields)]
