"""While models don't load: the smallest model that fits stays, larger ones are let go and not loaded.

That is what ``models_dont_load`` does until memory is back. Nobody is condemned for it: whoever asks in vain
now may ask again then. What is at work ends its answer first, and what ``omit`` or ``avoid`` say holds.
"""

from __future__ import annotations

from ollama_guard.core import condemned, sane, victims
from ollama_guard.core.model import ActionKind, Activity, CatalogueEntry, Preference
from ollama_guard.core.policy import spelled
from ollama_guard.core.recovery import Position, Step
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import room_alone_bytes


def position_of(scene: Scene) -> Position | None:
    """The run that goes on, if it keeps to the smallest model."""
    position = scene.state.durable.playbook
    return position if position is not None and position.step is Step.SOFT_CAP else None


def smallest(scene: Scene) -> CatalogueEntry | None:
    """The smallest installed model that can answer and fits alone, before others one of the owner's tiers.

    None where none is known.
    """
    room, hidden = room_alone_bytes(scene), scene.hidden_names
    tiers = {spelled(tier.model) for tier in scene.policy.tiers}
    able = [
        (size, entry.names, entry)
        for entry in scene.snapshot.catalogue
        if (size := sane.count(entry.size_bytes) or 0) and not entry.embeds
        if room is None or size <= room
        if not all(spelled(name) in hidden for name in entry.names)
        if condemned.active(scene.state.durable, entry.blob, scene.now) is None
    ]
    laddered = [found for found in able if any(spelled(name) in tiers for name in found[1])]
    return min(laddered or able, key=lambda found: found[:2])[2] if able else None


def forbids(scene: Scene, blob: str | None, size_bytes: int | None) -> CatalogueEntry | None:
    """The model that is kept to, if one of this size is larger than it."""
    kept = smallest(scene) if position_of(scene) is not None else None
    if kept is None or blob is None or blob == kept.blob:
        return None
    return kept if (sane.count(size_bytes) or 0) > (sane.count(kept.size_bytes) or 0) else None


def at_birth(scene: Scene) -> list[Runner]:
    """Loads of larger models that began after the run did and are to be aborted now."""
    position = position_of(scene)
    if position is None:
        return []
    return [
        runner
        for runner in scene.runners
        if runner.growing
        and runner.reading.born_at >= position.started_at
        and runner.rule.preference is not Preference.OMIT
        and forbids(scene, runner.reading.blob, _size(scene, runner))
        and not any(a.key == runner.key and a.kind is ActionKind.KILL for a in scene.state.in_flight)
        and not victims.mercy_seconds(scene, runner)
    ]


def idle(scene: Scene) -> list[Runner]:
    """Idle models that are larger and are to go."""
    return [
        runner
        for runner in scene.runners
        if runner.activity is Activity.IDLE
        and runner.rule.preference is Preference.NONE
        and forbids(scene, runner.reading.blob, _size(scene, runner))
        and scene.can_unload(runner)
    ]


def _size(scene: Scene, runner: Runner) -> int | None:
    listed = (e.size_bytes for e in scene.snapshot.catalogue if e.blob == runner.reading.blob)
    return next(listed, None) or runner.reading.blob_bytes
