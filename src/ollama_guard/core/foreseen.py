"""What a load will cost, and when it is over."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import sane
from ollama_guard.core.model import ApiReading, CatalogueEntry, RunnerReading, Snapshot
from ollama_guard.core.state import RunnerState

# A load is over when memory has stood still for this long (seconds) and the API lists the model, or,
# when the API says nothing, for the longer one: a slow disk may pause a load for a second or two.
SETTLED_LISTED_SECONDS = 1.0
SETTLED_SILENT_SECONDS = 5.0
# A runner first seen this long after its birth (seconds) was not seen to be born: the guard has just
# started, or was blind. It may well be loaded, and is taken for a load only while it is seen to grow.
BORN_BEFORE_SECONDS = 5.0
# A share of the foreseen size at which a listed model counts as loaded without waiting.
LOADED_SHARE = 0.9
# Ollama's context when the command line doesn't tell (tokens; facts 2.5).
DEFAULT_CONTEXT_TOKENS = 4096


def foreseen_bytes(reading: RunnerReading, snapshot: Snapshot) -> int | None:
    """Anonymous bytes that a runner takes once loaded: weights + f16 KV cache (facts 3.4); None if unknown.

    Mapped weights are page cache, which the kernel takes back by itself, so only the KV cache counts.
    Compute buffers and the prompt cache are left out: too small an estimate is mended by relief, too
    large a one would abort a load that fits.
    """
    entry = next((e for e in snapshot.catalogue if e.blob == reading.blob), None) if reading.blob else None
    weights = reading.blob_bytes
    if weights is None and entry is not None:
        weights = sane.count(entry.size_bytes)
    if weights is None:
        return None
    context = reading.context_tokens or min(DEFAULT_CONTEXT_TOKENS, _training(entry))
    cache = (sane.count(entry.kv_bytes_per_token) or 0) * context if entry else 0
    return cache + (0 if reading.weights_mapped else weights)


def _training(entry: CatalogueEntry | None) -> int:
    return (sane.count(entry.training_context) if entry else None) or DEFAULT_CONTEXT_TOKENS


def has_loaded(state: RunnerState, reading: RunnerReading, snapshot: Snapshot) -> bool:
    """Whether its load is over. Old servers list a model while it loads, new ones only after it."""
    api, now = snapshot.api, snapshot.now
    still_seconds = now - state.grew_at
    if born_before(state, reading) and (
        still_seconds >= SETTLED_LISTED_SECONDS or _has_weights(reading, snapshot)
    ):
        return True
    if not _listed_since(api, reading):
        return still_seconds >= SETTLED_SILENT_SECONDS and now - state.first_seen_at >= SETTLED_SILENT_SECONDS
    if not lists_loading(api):
        return True
    foreseen = foreseen_bytes(reading, snapshot)
    if foreseen and reading.freeable_bytes >= LOADED_SHARE * foreseen:
        return True
    return still_seconds >= SETTLED_LISTED_SECONDS


def born_before(state: RunnerState, reading: RunnerReading) -> bool:
    """Whether its birth was not seen."""
    return state.first_seen_at - reading.born_at > BORN_BEFORE_SECONDS


def _has_weights(reading: RunnerReading, snapshot: Snapshot) -> bool:
    """Whether the weights are in: what grows after that is cache in use, not a load."""
    if reading.weights_mapped:
        return True
    cacheless = foreseen_bytes(replace(reading, weights_mapped=True), snapshot)
    foreseen = foreseen_bytes(reading, snapshot)
    if foreseen is None or cacheless is None:
        return False
    return reading.freeable_bytes >= LOADED_SHARE * (foreseen - cacheless)


def _listed_since(api: ApiReading, reading: RunnerReading) -> bool:
    if reading.blob is None or api.loaded_at is None or api.loaded_at <= reading.born_at:
        return False
    return any(model.blob == reading.blob for model in api.loaded)


def lists_loading(api: ApiReading) -> bool:
    """Whether this server's ``/api/ps`` may list a model that is still loading (before 0.30, facts 9)."""
    head = (api.version or "").split("-")[0].split(".")
    try:
        return (int(head[0]), int(head[1])) < (0, 30)
    except (ValueError, IndexError):
        return True
