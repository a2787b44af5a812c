"""What each runner is doing, what it is called, what it will cost.

Busy or idle comes from the process itself (CPU time moving), never from ``expires_at``, which lies in
both directions (facts 1.4). Names are aliases: everything is judged per blob (facts 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ollama_guard.core.model import ActionKind, Activity, ApiReading, CatalogueEntry, RunnerReading, Snapshot
from ollama_guard.core.policy import MIB, ModelRule, Policy
from ollama_guard.core.state import RunnerState, State

# A runner whose CPU time moved by more than this share of one core is at work (design, section 4).
BUSY_CPU_SHARE = 0.05
# Seconds without CPU that prove it idle, and the spacing of the samples (which bounds their number).
IDLE_WINDOW_SECONDS = 2.0
SAMPLE_SPACING_SECONDS = 0.15
# Growth below this is noise of the allocator, not a load that makes progress (bytes).
GROWTH_STEP_BYTES = 4 * MIB
# A load is over when memory has stood still for this long (seconds) and the API lists the model, or,
# when the API says nothing, for the longer one: a slow disk may pause a load for a second or two.
SETTLED_LISTED_SECONDS = 1.0
SETTLED_SILENT_SECONDS = 5.0
# A share of the foreseen size at which a listed model counts as loaded without waiting.
LOADED_SHARE = 0.9
# Ollama's context when the command line doesn't tell (tokens; facts 2.5).
DEFAULT_CONTEXT_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Runner:
    """One proven runner with everything that the ladder judges it by (bytes, boottime seconds)."""

    reading: RunnerReading
    names: tuple[str, ...]
    activity: Activity
    rule: ModelRule
    foreseen_bytes: int | None
    last_used_at: float
    idle_seconds: float
    spell_seconds: float | None

    @property
    def key(self) -> tuple[int, int]:
        """(pid, start_ticks)."""
        return self.reading.key

    @property
    def freeable_bytes(self) -> int:
        """What its end gives back for certain."""
        return self.reading.freeable_bytes

    @property
    def remaining_bytes(self) -> int:
        """What its load will still take, 0 once loaded or when nothing is foreseen."""
        if self.activity is not Activity.LOADING or self.foreseen_bytes is None:
            return 0
        return max(0, self.foreseen_bytes - self.reading.freeable_bytes)

    @property
    def title(self) -> str:
        """Every name of the blob, or the blob itself, for sentences."""
        if self.names:
            return " = ".join(self.names)
        return (self.reading.blob or f"pid {self.reading.pid}")[:19]


def names_of(blob: str | None, snapshot: Snapshot) -> tuple[str, ...]:
    """All names of a blob: the catalogue's, else those under which the API lists it."""
    if blob is None:
        return ()
    for entry in snapshot.catalogue:
        if entry.blob == blob:
            return entry.names
    return tuple(dict.fromkeys(model.name for model in snapshot.api.loaded if model.blob == blob))


def foreseen_bytes(reading: RunnerReading, snapshot: Snapshot) -> int | None:
    """Anonymous bytes that a runner takes once loaded: weights + f16 KV cache (facts 3.4); None if unknown.

    Mapped weights are page cache, which the kernel takes back by itself, so only the KV cache counts.
    Compute buffers and the prompt cache are left out: too small an estimate is mended by relief, too
    large a one would abort a load that fits.
    """
    entry = next((e for e in snapshot.catalogue if e.blob == reading.blob), None) if reading.blob else None
    weights = reading.blob_bytes if reading.blob_bytes is not None else (entry.size_bytes if entry else None)
    if weights is None:
        return None
    context = reading.context_tokens or min(DEFAULT_CONTEXT_TOKENS, _training(entry))
    cache = (entry.kv_bytes_per_token or 0) * context if entry else 0
    return cache + (0 if reading.weights_mapped else weights)


def _training(entry: CatalogueEntry | None) -> int:
    return (entry.training_context if entry else None) or DEFAULT_CONTEXT_TOKENS


def remember(
    snapshot: Snapshot, previous: Iterable[RunnerState], *, stalled: bool
) -> tuple[RunnerState, ...]:
    """Every proven runner's recent past, brought up to this snapshot; the dead are forgotten."""
    known = {(state.pid, state.start_ticks): state for state in previous}
    if stalled:
        known = {k: replace(s, cpu=(), busy_since_at=None, grew_at=snapshot.now) for k, s in known.items()}
    return tuple(_remember_one(known.get(r.key), r, snapshot) for r in snapshot.runners if _counts(r))


def _counts(reading: RunnerReading) -> bool:
    """Proven, and not a corpse that only waits for its parent (its memory is gone already)."""
    return reading.proven and reading.process_state not in ("Z", "X")


def _remember_one(old: RunnerState | None, reading: RunnerReading, snapshot: Snapshot) -> RunnerState:
    now = snapshot.now
    state = old or RunnerState(
        pid=reading.pid, start_ticks=reading.start_ticks, first_seen_at=now, grew_at=now, last_used_at=now
    )
    bytes_now = reading.freeable_bytes
    if bytes_now >= state.peak_bytes + GROWTH_STEP_BYTES:
        state = replace(state, peak_bytes=bytes_now, grew_at=now)
    state = replace(state, blob=reading.blob or state.blob, cpu=_cpu_samples(state, reading, now))
    if state.loaded_at is None and _has_loaded(state, reading, snapshot):
        state = replace(state, loaded_at=now, last_used_at=now)
    busy = not is_idle(state, now)
    if busy and state.busy_since_at is None:
        return replace(state, busy_since_at=now, last_used_at=now)
    if busy:
        return replace(state, last_used_at=now)
    if state.busy_since_at is not None:
        return replace(state, busy_since_at=None, spell_seconds=now - state.busy_since_at)
    return state


def _cpu_samples(state: RunnerState, reading: RunnerReading, now: float) -> tuple[tuple[float, float], ...]:
    if reading.cpu_seconds is None:
        return ()
    if state.cpu and now - state.cpu[-1][0] < SAMPLE_SPACING_SECONDS:
        return state.cpu
    recent = [s for s in state.cpu if now - s[0] < IDLE_WINDOW_SECONDS]
    edge = [s for s in state.cpu if now - s[0] >= IDLE_WINDOW_SECONDS][-1:]
    return (*edge, *recent, (now, reading.cpu_seconds))


def is_idle(state: RunnerState, now: float) -> bool:
    """Proven idle: over at least the last two seconds its CPU time moved by no more than the busy share."""
    samples = state.cpu
    if len(samples) < 2 or now - samples[0][0] < IDLE_WINDOW_SECONDS:
        return False
    elapsed = samples[-1][0] - samples[0][0]
    moved = samples[-1][1] - samples[0][1]
    return elapsed > 0 and moved <= BUSY_CPU_SHARE * elapsed


def _has_loaded(state: RunnerState, reading: RunnerReading, snapshot: Snapshot) -> bool:
    """Whether its load is over. Old servers list a model while it loads, new ones only after it."""
    api, now = snapshot.api, snapshot.now
    still_seconds = now - state.grew_at
    if not _listed_since(api, reading):
        return still_seconds >= SETTLED_SILENT_SECONDS and now - state.first_seen_at >= SETTLED_SILENT_SECONDS
    if not lists_loading(api):
        return True
    foreseen = foreseen_bytes(reading, snapshot)
    if foreseen and reading.freeable_bytes >= LOADED_SHARE * foreseen:
        return True
    return still_seconds >= SETTLED_LISTED_SECONDS


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


def census(policy: Policy, state: State, snapshot: Snapshot) -> tuple[Runner, ...]:
    """Every proven runner as the ladder sees it; ``state.runners`` must be of this snapshot."""
    pasts: Mapping[tuple[int, int], RunnerState] = {(s.pid, s.start_ticks): s for s in state.runners}
    stopping = {action.key for action in state.in_flight if action.kind is not ActionKind.PURGE_GHOST}
    views = []
    for reading in snapshot.runners:
        past = pasts.get(reading.key)
        if past is None:
            continue
        names = names_of(reading.blob, snapshot)
        views.append(
            Runner(
                reading=reading,
                names=names,
                activity=_activity(past, snapshot.now, stopping=reading.key in stopping),
                rule=policy.rule_of(names),
                foreseen_bytes=foreseen_bytes(reading, snapshot),
                last_used_at=past.last_used_at,
                idle_seconds=snapshot.now - past.last_used_at,
                spell_seconds=past.spell_seconds,
            )
        )
    return tuple(views)


def _activity(past: RunnerState, now: float, *, stopping: bool) -> Activity:
    if stopping:
        return Activity.STOPPING
    if past.loaded_at is None:
        return Activity.LOADING
    return Activity.IDLE if is_idle(past, now) else Activity.BUSY
