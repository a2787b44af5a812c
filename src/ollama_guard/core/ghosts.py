"""Ghosts: models that Ollama lists though their runner is gone (facts 2.8).

A ghost keeps a slot of OLLAMA_MAX_LOADED_MODELS until a request or a ``keep_alive: 0`` clears it.
"""

from __future__ import annotations

from ollama_guard.core.model import LoadedModel
from ollama_guard.core.scene import Scene

# The listing must be this much younger than the last runner's birth or death that we know of, and a
# ghost is cleared at most this often (seconds): a purge that changed nothing must not become a drum.
LISTING_AGE_SECONDS = 0.5
AGAIN_SECONDS = 60.0


def find(scene: Scene) -> LoadedModel | None:
    """One listed model that certainly has no runner any more, if the API can be asked."""
    api, state = scene.snapshot.api, scene.state
    if not scene.snapshot.servers or not scene.api_usable() or api.loaded_at is None or scene.snapshot.blind:
        return None
    if any(reading.blob is None for reading in scene.snapshot.runners):
        return None  # a runner whose blob is not known yet could be its own
    alive = {reading.blob for reading in scene.snapshot.runners}
    busy = {action.blob for action in state.in_flight}
    for model in api.loaded:
        gone_at = state.gone_at.get(model.blob or "", None)
        if model.blob is None or model.blob in alive or model.blob in busy or gone_at is None:
            continue
        listed_after = api.loaded_at > gone_at + LISTING_AGE_SECONDS
        purged = state.purged_at.get(model.blob, -AGAIN_SECONDS)
        if listed_after and scene.now - purged >= AGAIN_SECONDS:
            return model
    return None
