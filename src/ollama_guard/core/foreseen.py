"""What a load will cost, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_guard.core import ledger, sane
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
# A load that has outgrown what was measured by this much is not like the one that was measured (another
# Ollama, fewer layers on the GPU): then the estimate counts again.
OUTGROWN_SHARE = 1.1
# A load is waited for this many times as long as the ones before it took, on average: a cold page cache, or a
# busy disk, makes it about so much slower. And no longer than this (seconds), whatever was measured.
LOAD_PATIENCE = 2.0
LONGEST_LOAD_SECONDS = 600.0
# Ollama's context when the command line doesn't tell (tokens; facts 2.5).
DEFAULT_CONTEXT_TOKENS = 4096


# What a KV cache of another type (OLLAMA_KV_CACHE_TYPE) takes of one of f16: blocks of 32 values and their
# scales (ggml's types).
CACHE_SHARES = {
    "q8_0": 34 / 64, "q5_1": 24 / 64, "q5_0": 22 / 64, "q4_1": 20 / 64, "q4_0": 18 / 64, "iq4_nl": 18 / 64,
    "f32": 2.0,
}  # fmt: skip


# How a size is known that a load of just this kind had.
MEASURED = "as measured before"


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a runner will take, in bytes (None = not known), and the words that say how that is known."""

    count: int | None
    source: str = "estimated from its weights and context"


def foreseen(reading: RunnerReading, snapshot: Snapshot) -> Foreseen:
    """As measured before, else scaled from the nearest context that was measured, else estimated."""
    estimate = Foreseen(estimated_bytes(reading, snapshot))
    key = ledger.key_of(reading)
    row = ledger.nearest(snapshot.footprints, key) if key is not None else None
    anon = sane.count(row.anon_bytes) if row is not None else None
    if key is None or row is None or anon is None:
        return estimate
    measured = anon + (sane.count(row.shmem_bytes) or 0)
    source = MEASURED
    if row.key.context_tokens != key.context_tokens:
        entry = _entry(reading, snapshot)
        if entry is None or sane.count(entry.kv_bytes_per_token) is None:
            return estimate
        per_token = _per_token(reading, entry)
        # Whatever the cache is kept as: never below the weights.
        least = 0 if key.weights_mapped or row.vram_bytes else _weights(reading, entry) or 0
        measured = max(measured + int(per_token * (key.context_tokens - row.key.context_tokens)), least)
        source = f"as measured with {row.key.context_tokens} tokens of context, for {key.context_tokens}"
    if reading.freeable_bytes > OUTGROWN_SHARE * measured:
        return replace(estimate, count=max(measured, estimate.count or 0))
    return Foreseen(measured, source)


def load_seconds(reading: RunnerReading, snapshot: Snapshot) -> float | None:
    """How long loads of just this kind took on average, None if none was measured."""
    key = ledger.key_of(reading)
    row = ledger.exact(snapshot.footprints, key) if key is not None else None
    return sane.duration(row.load_seconds) if row is not None else None


def estimated_bytes(reading: RunnerReading, snapshot: Snapshot) -> int | None:
    """Anonymous bytes that a runner takes once loaded: weights + KV cache (facts 3.4); None if unknown.

    Mapped weights are page cache, which the kernel takes back by itself, so only the KV cache counts.
    Compute buffers and the prompt cache are left out: too small an estimate is mended by relief, too
    large a one would abort a load that fits.
    """
    entry = _entry(reading, snapshot)
    weights = _weights(reading, entry)
    if weights is None:
        return None
    context = reading.context_tokens or min(DEFAULT_CONTEXT_TOKENS, _training(entry))
    cache = int(_per_token(reading, entry) * context)
    return cache + (0 if reading.weights_mapped else weights)


def _per_token(reading: RunnerReading, entry: CatalogueEntry | None) -> float:
    """What one more token of context takes, as this runner keeps its cache."""
    as_f16 = (sane.count(entry.kv_bytes_per_token) if entry is not None else None) or 0
    return as_f16 * CACHE_SHARES.get(reading.cache_type, 1.0)


def _entry(reading: RunnerReading, snapshot: Snapshot) -> CatalogueEntry | None:
    return next((e for e in snapshot.catalogue if e.blob == reading.blob), None) if reading.blob else None


def _weights(reading: RunnerReading, entry: CatalogueEntry | None) -> int | None:
    known = reading.blob_bytes
    return sane.count(entry.size_bytes) if known is None and entry is not None else known


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
    if not listed_since(api, reading):
        silent_seconds = max(SETTLED_SILENT_SECONDS, _usual_seconds(reading, snapshot))
        return still_seconds >= SETTLED_SILENT_SECONDS and now - state.first_seen_at >= silent_seconds
    if not lists_loading(api):
        return True
    whole = foreseen(reading, snapshot).count
    if whole and reading.freeable_bytes >= LOADED_SHARE * whole:
        return True
    # Without its weights it waits for the disk or a processor, however still it stands.
    in_memory = _has_weights(reading, snapshot)
    return still_seconds >= (SETTLED_LISTED_SECONDS if in_memory else SETTLED_SILENT_SECONDS)


def _usual_seconds(reading: RunnerReading, snapshot: Snapshot) -> float:
    """Until then a load that stands still may only wait for its disk; 0 when none was measured."""
    return min(LOAD_PATIENCE * (load_seconds(reading, snapshot) or 0.0), LONGEST_LOAD_SECONDS)


def born_before(state: RunnerState, reading: RunnerReading) -> bool:
    """Whether its birth was not seen."""
    return state.first_seen_at - reading.born_at > BORN_BEFORE_SECONDS


def _has_weights(reading: RunnerReading, snapshot: Snapshot) -> bool:
    """Whether the weights are in: what grows after that is cache in use, not a load."""
    if reading.weights_mapped:
        return True
    weights = _weights(reading, _entry(reading, snapshot))
    return weights is not None and reading.freeable_bytes >= LOADED_SHARE * weights


def listed_since(api: ApiReading, reading: RunnerReading) -> bool:
    """Whether Ollama has listed this runner's model after its birth."""
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
