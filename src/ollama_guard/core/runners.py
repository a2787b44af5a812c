"""What each runner is doing, what it is called, what it will cost.

Busy or idle comes from the process itself (CPU time moving), never from ``expires_at``, which lies in
both directions (facts 1.4). Names are aliases: everything is judged per blob (facts 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ollama_guard.core import ledger, sane
from ollama_guard.core.footprint import Footprint
from ollama_guard.core.foreseen import (
    SETTLED_LISTED_SECONDS,
    SETTLED_SILENT_SECONDS,
    born_before,
    estimated_bytes,
    foreseen,
    has_loaded,
)
from ollama_guard.core.model import (
    ActionKind,
    Activity,
    Preference,
    RunnerReading,
    Snapshot,
)
from ollama_guard.core.policy import GIB, MIB, ModelRule, Policy, Protect
from ollama_guard.core.state import RunnerState, State

# A runner whose CPU time moved by more than this share of one core is at work. Idle ones of 0.2 to 1.5 GiB
# took not 10 ms in 20 s; one in the middle of an answer still got 1.8 % with ten programs after each core.
BUSY_CPU_SHARE = 0.01
# A process that waits for the disk or for memory takes no CPU and yet is at work (state in /proc/PID/stat).
WAITING_STATES = ("D",)
# Seconds without CPU that prove it idle, and the spacing of the samples (which bounds their number).
IDLE_WINDOW_SECONDS = 2.0
SAMPLE_SPACING_SECONDS = 0.15
# Growth below this is noise of the allocator, not a load that makes progress (bytes).
GROWTH_STEP_BYTES = 4 * MIB
# What a load costs until one was measured: seconds, and seconds per GiB (a real Ollama here read 1.5 GiB in
# 1.6 to 2.8 s). A slower disk is slower for all alike, so the order of worth stays.
LOAD_PRIOR_SECONDS = 0.3
# What a runner holds so long (seconds) after its load is what the load needs, with a first answer's buffers.
# What comes later is the prompt cache (facts 3.3), which the next load begins without.
FRESH_SECONDS = 60.0
LOAD_PRIOR_SECONDS_PER_GIB = 1.5


@dataclass(frozen=True, slots=True)
class Runner:
    """One proven runner with everything that the ladder judges it by (bytes, boottime seconds).

    ``foreseen_source`` says how ``foreseen_bytes`` is known; ``row`` is its own row of the ledger;
    ``asked_per_day`` is None until the ledger has been kept for a week; ``loaded_seconds`` have passed since
    its load was over.
    """

    reading: RunnerReading
    names: tuple[str, ...]
    activity: Activity
    rule: ModelRule
    foreseen_bytes: int | None
    last_used_at: float
    idle_seconds: float
    spell_seconds: float | None
    still_seconds: float = 0.0
    foreseen_source: str = ""
    row: Footprint | None = None
    asked_per_day: float | None = None
    loaded_seconds: float = 0.0

    @property
    def key(self) -> tuple[int, int]:
        """(pid, start_ticks)."""
        return self.reading.key

    @property
    def freeable_bytes(self) -> int:
        """What its end gives back for certain."""
        return self.reading.freeable_bytes

    @property
    def memory_bytes(self) -> int:
        """What its end gives back to *memory*: what lies in swap already helps no threshold."""
        return (self.reading.anon_bytes or 0) + (self.reading.shmem_bytes or 0)

    @property
    def load_seconds(self) -> float:
        """What having it back costs: as measured, else the prior."""
        measured = sane.duration(self.row.load_seconds) if self.row is not None else None
        if measured is not None:
            return measured
        return LOAD_PRIOR_SECONDS + LOAD_PRIOR_SECONDS_PER_GIB * self.memory_bytes / GIB

    @property
    def worth(self) -> float:
        """Seconds of loading that a day of keeping it saves, per GiB that it holds (GDSF, see `ledger`)."""
        return (self.asked_per_day or 0.0) * self.load_seconds * GIB / max(self.memory_bytes, MIB)

    @property
    def growing(self) -> bool:
        """A load that moves, or was born just now. One that stands still may long be done (facts 1.3)."""
        return self.activity is Activity.LOADING and self.still_seconds < SETTLED_LISTED_SECONDS

    @property
    def remaining_bytes(self) -> int:
        """What its load will still take, 0 once loaded or when nothing is foreseen."""
        if self.activity is not Activity.LOADING or self.foreseen_bytes is None:
            return 0
        return max(0, self.foreseen_bytes - self.reading.freeable_bytes)

    @property
    def needs_bytes(self) -> int:
        """What a load of it takes, as far as it is known."""
        held, ahead = self.reading.freeable_bytes, self.foreseen_bytes
        return held if ahead is None else max(ahead, held if self.loaded_seconds < FRESH_SECONDS else 0)

    @property
    def is_orphan(self) -> bool:
        """Whether its server is gone."""
        return self.reading.server_pid is None

    @property
    def title(self) -> str:
        """Every name of the blob, or the blob itself, for sentences."""
        if self.names:
            return " = ".join(self.names)
        return (self.reading.blob or f"pid {self.reading.pid}")[:19]


def names_of(blob: str | None, snapshot: Snapshot) -> tuple[str, ...]:
    """All names of a blob: the catalogue's, else those under which the API lists it.

    First the one by which it was loaded, as far as the API tells, then the shortest: an alias is nearly
    always the longer one, and people know the model by the other.
    """
    if blob is None:
        return ()
    listed = [model.name for model in snapshot.api.loaded if model.blob == blob]
    known = [name for entry in snapshot.catalogue if entry.blob == blob for name in entry.names]
    return sane.names(sorted(known or listed, key=lambda name: (name not in listed, len(name), name)))


def remember(
    snapshot: Snapshot, previous: Iterable[RunnerState], *, stalled: bool
) -> tuple[RunnerState, ...]:
    """Every proven runner's recent past, brought up to this snapshot; the dead are forgotten."""
    known = {(state.pid, state.start_ticks): state for state in previous}
    if stalled:
        known = {key: _anew(state, snapshot.now) for key, state in known.items()}
    return tuple(_remember_one(known.get(r.key), r, snapshot) for r in snapshot.runners if _counts(r))


def _anew(state: RunnerState, now: float) -> RunnerState:
    """After a stall: only what it did in all of it will be known, and whether it still loads must be seen."""
    state = replace(state, cpu=state.cpu[-1:], busy_since_at=None, grew_at=now)
    return state if state.loaded_at is not None else replace(state, first_seen_at=now)


def _counts(reading: RunnerReading) -> bool:
    """Proven, and not a corpse that only waits for its parent or its last threads."""
    return reading.proven and is_running(reading)


def is_running(reading: RunnerReading) -> bool:
    """Whether its first thread has not ended: it can be asked for something, as far as it goes."""
    return reading.process_state not in ("Z", "X")


def _remember_one(old: RunnerState | None, reading: RunnerReading, snapshot: Snapshot) -> RunnerState:
    now = snapshot.now
    state = old or RunnerState(
        pid=reading.pid, start_ticks=reading.start_ticks, first_seen_at=now, grew_at=now, last_used_at=now
    )
    bytes_now = reading.freeable_bytes
    if bytes_now >= state.peak_bytes + GROWTH_STEP_BYTES:
        state = replace(state, peak_bytes=bytes_now, grew_at=now)
    state = replace(
        state,
        blob=reading.blob or state.blob,
        footprint=state.footprint or ledger.key_of(reading),
        cpu=_cpu_samples(state, reading, now),
        needs_bytes=estimated_bytes(reading, snapshot) if state.needs_bytes is None else state.needs_bytes,
        domains=reading.domains,
        expires_at=_expires_at(state, snapshot),
    )
    if state.loaded_at is None and has_loaded(state, reading, snapshot):
        state = replace(state, loaded_at=now, last_used_at=now)
    if state.measured_at is None and _has_settled(state, reading, now):
        state = replace(state, measured_at=now)
    busy = not is_idle(state, now) or reading.process_state in WAITING_STATES
    if busy and state.busy_since_at is None:
        return replace(state, busy_since_at=now, last_used_at=now)
    if busy:
        return replace(state, last_used_at=now)
    if state.busy_since_at is not None:
        return replace(state, busy_since_at=None, spell_seconds=now - state.busy_since_at)
    return state


def _expires_at(state: RunnerState, snapshot: Snapshot) -> float | None:
    """When its time is over as the API last listed it, None while it never did; to a second, so it rests."""
    listed_at, api = snapshot.api.loaded_at, snapshot.api
    listed = [m.expires_in_seconds for m in api.loaded if m.blob == state.blob] if state.blob else []
    known = [seconds for seconds in listed if seconds is not None]
    if listed_at is None or not known:
        return state.expires_at
    at = listed_at + max(known)
    return state.expires_at if state.expires_at is not None and abs(at - state.expires_at) < 1.0 else at


def _has_settled(state: RunnerState, reading: RunnerReading, now: float) -> bool:
    """Whether its size is that of a load: seen to be born, loaded, and standing still (or had time to).

    What grows later is the prompt cache (facts 3.3), which no load begins with.
    """
    if state.loaded_at is None or born_before(state, reading):
        return False
    still = now - max(state.grew_at, state.loaded_at) >= SETTLED_LISTED_SECONDS
    return still or now - state.loaded_at >= SETTLED_SILENT_SECONDS


def _cpu_samples(state: RunnerState, reading: RunnerReading, now: float) -> tuple[tuple[float, float], ...]:
    if reading.cpu_seconds is None:
        return ()
    if state.cpu and now - state.cpu[-1][0] < SAMPLE_SPACING_SECONDS:
        return state.cpu
    recent = [s for s in state.cpu if now - s[0] < IDLE_WINDOW_SECONDS]
    edge = [s for s in state.cpu if now - s[0] >= IDLE_WINDOW_SECONDS][-1:]
    return (*edge, *recent, (now, reading.cpu_seconds))


def is_idle(state: RunnerState, now: float) -> bool:
    """Proven idle: in no two of the last seconds can its CPU time have moved by more than the busy share.

    Samples may be further apart than that; then all that moved may have moved in the last two seconds.
    """
    samples = state.cpu
    if len(samples) < 2 or now - samples[0][0] < IDLE_WINDOW_SECONDS:
        return False
    elapsed = samples[-1][0] - samples[0][0]
    moved = samples[-1][1] - samples[0][1]
    return elapsed > 0 and moved <= BUSY_CPU_SHARE * min(elapsed, IDLE_WINDOW_SECONDS)


def has_worked(state: RunnerState, now: float) -> bool:
    """Proven to have worked in the last seconds: to wait for memory, or to be unread, is not to be asked."""
    spans = len(state.cpu) >= 2 and now - state.cpu[0][0] >= IDLE_WINDOW_SECONDS
    return spans and not is_idle(state, now)


def census(policy: Policy, state: State, snapshot: Snapshot) -> tuple[Runner, ...]:
    """Every proven runner as the ladder sees it; ``state.runners`` must be of this snapshot."""
    pasts: Mapping[tuple[int, int], RunnerState] = {(s.pid, s.start_ticks): s for s in state.runners}
    stopping = {action.key for action in state.in_flight if action.kind is not ActionKind.PURGE_GHOST}
    book, views = snapshot.footprints, []
    week = ledger.has_a_week(book, snapshot.now)
    for reading in snapshot.runners:
        past = pasts.get(reading.key)
        if past is None:
            continue
        names = names_of(reading.blob, snapshot)
        ahead, key = foreseen(reading, snapshot), past.footprint
        views.append(
            Runner(
                reading=reading,
                names=names,
                activity=_activity(past, reading, snapshot.now, stopping=reading.key in stopping),
                rule=rule_for(policy, names),
                foreseen_bytes=ahead.count,
                last_used_at=past.last_used_at,
                idle_seconds=snapshot.now - past.last_used_at,
                spell_seconds=past.spell_seconds,
                still_seconds=snapshot.now - past.grew_at,
                foreseen_source=ahead.source,
                row=ledger.exact(book, key) if key is not None else None,
                asked_per_day=ledger.asked_per_day(book, reading.blob or "", snapshot.now) if week else None,
                loaded_seconds=0.0 if past.loaded_at is None else snapshot.now - past.loaded_at,
            )
        )
    return tuple(views)


def rule_for(policy: Policy, names: tuple[str, ...]) -> ModelRule:
    """The owner's rule for a runner; one whose names are not known could be any model he protects."""
    if names or not policy.models:
        return policy.rule_of(names)
    rules = policy.models.values()
    omit = any(rule.preference is Preference.OMIT for rule in rules)
    always = any(rule.preference is Preference.OMIT and rule.protect is Protect.ALWAYS for rule in rules)
    return ModelRule(
        Preference.OMIT if omit else Preference.NONE, Protect.ALWAYS if always else Protect.BELOW_CRITICAL
    )


def _activity(past: RunnerState, reading: RunnerReading, now: float, *, stopping: bool) -> Activity:
    if stopping:
        return Activity.STOPPING
    grew = past.grew_at > past.first_seen_at
    if past.loaded_at is None and (grew or not born_before(past, reading)):
        return Activity.LOADING
    idle = is_idle(past, now) and reading.process_state not in WAITING_STATES
    return Activity.IDLE if idle else Activity.BUSY
