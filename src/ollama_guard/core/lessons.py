"""What a tick taught about footprints, for the ledger that `hands` keep: from the state before and after.

* A load that was seen from birth to its end: its seconds, and its size once it has settled.
* A use: the request behind each load, and each busy spell after it.
* An unload that was done: its seconds. A kill of a busy runner: an answer cut. A runner's end: its peak.
"""

from __future__ import annotations

from collections.abc import Iterator

from ollama_guard.core import sane
from ollama_guard.core.footprint import Lesson
from ollama_guard.core.foreseen import born_before, listed_since
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung, RunnerReading, Snapshot
from ollama_guard.core.runners import has_worked
from ollama_guard.core.state import RunnerState, State


def lessons(before: State, after: State, snapshot: Snapshot) -> tuple[Lesson, ...]:
    """What happened between the end of the last tick (``before``) and the end of this one."""
    readings = {reading.key: reading for reading in snapshot.runners}
    known = {(past.pid, past.start_ticks): past for past in before.runners}
    told: list[Lesson] = []
    for present in after.runners:
        past = known.pop((present.pid, present.start_ticks), None)
        reading = readings.get((present.pid, present.start_ticks))
        if reading is not None and present.footprint is not None:
            told += _of_runner(past, present, reading, snapshot, stalled=bool(after.stalled_seconds))
    told += [
        Lesson(gone.footprint, peak_bytes=gone.peak_bytes)
        for gone in known.values()
        if gone.footprint is not None and gone.loaded_at is not None and gone.peak_bytes
    ]
    if after.finished is not before.finished:
        for action, outcome in after.finished:
            if (action, outcome) not in before.finished:
                told += _of_end(before, action, outcome)
    return tuple(told)


def _of_runner(
    past: RunnerState | None,
    present: RunnerState,
    reading: RunnerReading,
    snapshot: Snapshot,
    *,
    stalled: bool,
) -> Iterator[Lesson]:
    assert present.footprint is not None
    loaded = (past is None or past.loaded_at is None) and present.loaded_at is not None
    if loaded and not born_before(present, reading):  # a small one may be done at the first look at it
        yield Lesson(present.footprint, loads=1, uses=1)
    if past is None:
        return
    if past.measured_at is None and present.measured_at is not None:
        yield _measured(present, reading, snapshot)
    began = past.busy_since_at is None and present.busy_since_at is not None
    if began and not stalled and present.loaded_at is not None and has_worked(present, snapshot.now):
        yield Lesson(present.footprint, uses=1)


def _measured(present: RunnerState, reading: RunnerReading, snapshot: Snapshot) -> Lesson:
    """Sizes of a load that has settled; its end is when memory last grew, else when Ollama listed it.

    One that was only ever seen at its full size, by an Ollama that says nothing, teaches no seconds: what is
    waited for then would be taken for the load, and the next one be waited for even longer.

    ``status`` is enough for the sizes: anonymous memory is a runner's own, and of the weights a blob has but
    one runner (facts 2.2), so that nothing would be counted twice.
    """
    assert present.footprint is not None
    assert present.loaded_at is not None
    ended: float | None = None
    if present.grew_at > present.first_seen_at:
        ended = min(present.grew_at, present.loaded_at)
    elif listed_since(snapshot.api, reading):
        ended = present.loaded_at
    anon, swap = sane.count(reading.anon_bytes), sane.count(reading.swap_bytes)
    return Lesson(
        present.footprint,
        anon_bytes=None if anon is None else anon + (swap or 0),
        shmem_bytes=sane.count(reading.shmem_bytes),
        file_bytes=sane.count(reading.file_bytes),
        vram_bytes=next(
            (sane.count(m.vram_bytes) for m in snapshot.api.loaded if m.blob == reading.blob), None
        ),
        load_seconds=None if ended is None else max(0.0, ended - (sane.seconds(reading.born_at) or ended)),
    )


def _of_end(before: State, action: Action, outcome: Outcome) -> Iterator[Lesson]:
    if action.footprint is None or outcome.kind is not OutcomeKind.DONE:
        return
    if action.kind is ActionKind.KILL and action.cuts_answer:
        yield Lesson(action.footprint, answers_cut=1)
    issued = before.issued_at.get(str(action.id))
    # By hand, and in a drain, an answer may have had to end first: that time is not the unload's.
    by_itself = action.rung is not Rung.DRAIN_BUSY and action.request_id is None
    if action.kind is ActionKind.UNLOAD and by_itself and issued is not None:
        yield Lesson(action.footprint, unload_seconds=max(0.0, outcome.at - issued))
