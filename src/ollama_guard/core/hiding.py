"""Hiding without a playbook: a condemned model that can never fit goes, one that fits again comes back.

What was condemned only because others held the memory fits with nothing else loaded: it is killed at birth
for its term, and not hidden. A name that a person brought back is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from ollama_guard.core import condemned, targets
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.core.quarantined import Hidden, QuarantineEntry
from ollama_guard.core.recovery import Target
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import fits_alone, too_large
from ollama_guard.core.units import bytes_text, seconds_text

# What each may take (seconds): a copy, a check and a delete for each name, at most ten seconds a call.
DEADLINE_SECONDS = 60.0
# The same model is not tried again for this long (seconds), doubling with each failure that is remembered.
AGAIN_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
# Names that a person brought back, remembered.
SPARED_KEPT = 32


def to_hide(scene: Scene) -> Action | None:
    """The next condemned model that can never fit and is still there for clients, or None."""
    durable = scene.state.durable
    if not durable.condemned or not scene.policy.quarantine.enabled or scene.snapshot.store.busy:
        return None
    for record in durable.condemned:
        if condemned.active(durable, record.blob, scene.now) is None or fits_alone(scene, record.needs_bytes):
            continue
        needs = targets.condemned_needs_bytes(scene, record)
        target = Target(record.blob, targets.names_of(scene, record.blob), needs)
        why = too_large(scene, needs)
        if (
            not target.names
            or not why
            or targets.is_spared(scene, target)
            or targets.is_hidden(scene, target)
            or _waits(scene, ActionKind.QUARANTINE, record.blob)
        ):
            continue
        title = " = ".join(target.names)
        return Action(
            id=0,
            kind=ActionKind.QUARANTINE,
            rung=Rung.PLAYBOOK,
            deadline_at=scene.now + DEADLINE_SECONDS,
            blob=record.blob,
            model=target.names[0],
            names=target.names,
            needs_bytes=needs,
            reason=f"hide {title}, which is condemned and asked for again: {why}",
        )
    return None


def fits_since(scene: Scene) -> Mapping[str, float]:
    """Since when each hidden name would fit again; nothing is looked at unless it may come back."""
    entries = scene.snapshot.store.entries
    if not entries or not scene.policy.quarantine.restore:
        return {}
    known = scene.state.fits_since_at
    return {entry.name: known.get(entry.name, scene.now) for entry in entries if _would_fit(scene, entry)}


def to_restore(scene: Scene) -> Action | None:
    """The next hidden name that has fitted again for long enough, or None."""
    policy = scene.policy.quarantine
    if not policy.restore or scene.snapshot.store.busy:
        return None
    for entry in scene.snapshot.store.entries:
        since = scene.state.fits_since_at.get(entry.name)
        if since is None or scene.now - since < policy.restore_after_seconds:
            continue
        if _waits(scene, ActionKind.RESTORE, entry.name):
            continue
        fitted = seconds_text(scene.now - since)
        return Action(
            id=0,
            kind=ActionKind.RESTORE,
            rung=Rung.PLAYBOOK,
            deadline_at=scene.now + DEADLINE_SECONDS,
            model=entry.name,
            names=(entry.name,),
            needs_bytes=_needs_bytes(entry),
            reason=f"bring {entry.name} back: it needs {bytes_text(_needs_bytes(entry))}, which has fitted "
            f"for {fitted}",
        )
    return None


def _would_fit(scene: Scene, entry: QuarantineEntry) -> bool:
    hidden, needs = entry.how is not Hidden.DELETED and not entry.returned, _needs_bytes(entry)
    return hidden and needs > 0 and fits_alone(scene, needs)


def _needs_bytes(entry: QuarantineEntry) -> int:
    """As written down, else its file's size: the note of its need may be lost."""
    return entry.needs_bytes or entry.size_bytes or 0


def _waits(scene: Scene, kind: ActionKind, about: str) -> bool:
    """Whether the same is under way, or was tried a moment ago."""

    def same(action: Action) -> bool:
        return action.kind is kind and about in (action.blob, action.model)

    if any(same(action) for action in scene.state.in_flight):
        return True
    ends = [outcome for action, outcome in scene.state.finished if same(action)]
    if not ends:
        return False
    failed = sum(1 for outcome in ends if outcome.kind is not OutcomeKind.DONE)
    pause = min(AGAIN_SECONDS * 2.0 ** max(0, min(failed, 10) - 1), LONGEST_PAUSE_SECONDS)
    return scene.now - ends[-1].at < pause


def spared_after(spared: tuple[str, ...], action: Action, outcome: Outcome) -> tuple[str, ...]:
    """The names that a person brought back, brought up to this outcome: by hand counts, and counts last."""
    if action.request_id is None or outcome.kind is not OutcomeKind.DONE:
        return spared
    if action.kind is ActionKind.RESTORE:
        return tuple(dict.fromkeys((*spared, *action.names)))[-SPARED_KEPT:]
    if action.kind is ActionKind.QUARANTINE:
        return tuple(name for name in spared if name not in action.names)
    return spared
