"""The ledger's arithmetic: what lessons make of rows, how often is often, what a load is foreseen to take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger, Lesson
from ollama_guard.core.foreseen import foreseen
from ollama_guard.core.ledger import (
    DAY_SECONDS,
    ROWS_KEPT,
    ROWS_PER_BLOB,
    asked_per_day,
    exact,
    has_a_week,
    key_of,
    learned,
    nearest,
    rows_of,
    taught,
    with_rows,
)
from ollama_guard.core.lessons import lessons
from ollama_guard.core.model import CatalogueEntry, RunnerReading, Snapshot
from ollama_guard.core.policy import GIB, MIB
from ollama_guard.core.state import RunnerState, State
from ollama_guard.core.units import rate_text
from ollama_guard.testing.scenario import blob_of

BLOB = blob_of("m")
KEY = FootprintKey(BLOB, 4096, 1)


def kept_for(days: float, *rows: Footprint) -> Ledger:
    """A ledger that has been kept for so many days, at time 0."""
    return with_rows(Ledger(at=0.0, watched_seconds=days * DAY_SECONDS), rows)


# ---- what a tick teaches, and what lessons make of rows


@pytest.mark.parametrize(("first_seen", "counted"), [(3.0, True), (60.0, False)])
def test_a_load_that_is_done_at_the_first_look_counts_if_its_birth_was_seen(
    first_seen: float, *, counted: bool
) -> None:
    """A small model loads faster than its command line is read."""
    known = reading()
    seen = RunnerState(
        known.pid, known.start_ticks, known.born_at + first_seen, loaded_at=first_seen, footprint=KEY
    )
    told = lessons(State(), State(runners=(seen,)), Snapshot(now=first_seen, wall=1e9, runners=(known,)))
    assert told == ((Lesson(KEY, loads=1, uses=1),) if counted else ())


def test_a_load_a_use_and_an_unload_make_one_row() -> None:
    ledger = Ledger()
    for at, lesson in enumerate(
        (
            Lesson(KEY, loads=1, uses=1),
            Lesson(KEY, anon_bytes=GIB, shmem_bytes=1, file_bytes=2, vram_bytes=0, load_seconds=4.0),
            Lesson(KEY, uses=1),
            Lesson(KEY, unload_seconds=0.2),
            Lesson(KEY, peak_bytes=2 * GIB),
            Lesson(KEY, answers_cut=1),
        )
    ):
        ledger, (changed,) = taught(ledger, [lesson], float(at), 1e9 + at)
        assert exact(ledger, KEY) == changed
    (row,) = rows_of(ledger)
    assert (row.loads, row.uses, row.answers_cut) == (1, 2, 1)
    assert (row.anon_bytes, row.shmem_bytes, row.file_bytes, row.vram_bytes) == (GIB, 1, 2, 0)
    assert (row.peak_bytes, row.load_seconds, row.unload_seconds) == (2 * GIB, 4.0, 0.2)
    assert (row.first_seen_wall, row.last_used_wall) == (1e9, 1e9 + 2)


def test_sizes_are_the_newest_and_times_running_means() -> None:
    row = Footprint(KEY, anon_bytes=GIB, load_seconds=10.0, peak_bytes=3 * GIB)
    after = learned(row, Lesson(KEY, anon_bytes=2 * GIB, load_seconds=20.0, peak_bytes=GIB), 0.0, 0.0)
    assert (after.anon_bytes, after.load_seconds, after.peak_bytes) == (2 * GIB, 13.0, 3 * GIB)


def test_a_wall_clock_that_jumps_by_a_year_changes_no_frequency() -> None:
    """Backwards or forwards: frequencies live in the ledger's own time."""
    frequencies = set()
    for jump in (0.0, 365 * DAY_SECONDS, -365 * DAY_SECONDS):
        ledger = kept_for(8)
        for hour in range(48):
            wall = 1.7e9 + hour * 3600 + (jump if hour > 24 else 0.0)
            ledger, _ = taught(ledger, [Lesson(KEY, uses=1)], hour * 3600.0, wall)
        frequencies.add(asked_per_day(ledger, BLOB, 48 * 3600.0))
    assert len(frequencies) == 1


@given(st.floats(0.5, 5), st.floats(7, 60))
def test_a_steady_rate_is_told_as_it_is_however_long_it_has_lasted(per_day: float, days: float) -> None:
    gap = DAY_SECONDS / per_day
    ledger, count = Ledger(), int(days * per_day)
    for number in range(count):
        ledger, _ = taught(ledger, [Lesson(KEY, uses=1)], (number + 0.5) * gap, 0.0)
    assert asked_per_day(ledger, BLOB, count * gap) == pytest.approx(per_day, rel=0.02)


def test_what_nobody_asks_for_any_more_fades() -> None:
    ledger, _ = taught(kept_for(14), [Lesson(KEY, uses=40)], 0.0, 0.0)
    rates = [asked_per_day(ledger, BLOB, days * DAY_SECONDS) for days in (0, 7, 30, 365)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-6


def test_the_contexts_of_one_blob_are_asked_for_together() -> None:
    other = replace(KEY, context_tokens=8192)
    ledger, _ = taught(kept_for(14), [Lesson(KEY, uses=3), Lesson(other, uses=4)], 0.0, 0.0)
    alone, _ = taught(kept_for(14), [Lesson(KEY, uses=7)], 0.0, 0.0)
    assert asked_per_day(ledger, BLOB, 0.0) == pytest.approx(asked_per_day(alone, BLOB, 0.0))


def test_a_week_is_a_week_of_keeping_and_needs_a_row() -> None:
    row = Footprint(KEY, first_seen_wall=1.0)
    assert not has_a_week(kept_for(6.9, row), 0.0)
    assert has_a_week(kept_for(6.9, row), 0.2 * DAY_SECONDS)
    assert not has_a_week(kept_for(30), 0.0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40), st.floats(0, 1e9)), max_size=200))
def test_a_blob_keeps_its_newest_rows_and_no_more(seen: list[tuple[int, int, float]]) -> None:
    rows = [Footprint(FootprintKey(f"sha256:{b:064x}", c), asked_at=at) for b, c, at in seen]
    ledger = with_rows(Ledger(), rows)
    last = {row.key: row for row in rows}
    for blob, kept in ledger.by_blob.items():
        assert len(kept) == min(ROWS_PER_BLOB, len({key for key in last if key.blob == blob}))
        assert list(kept) == sorted(kept, key=lambda row: -row.asked_at)


def test_a_ledger_keeps_the_blobs_that_were_used_last() -> None:
    rows = [Footprint(FootprintKey(f"sha256:{n:064x}"), asked_at=float(n)) for n in range(ROWS_KEPT + 500)]
    ledger = with_rows(Ledger(), rows)
    assert len(list(rows_of(ledger))) == ROWS_KEPT
    assert min(row.asked_at for row in rows_of(ledger)) == 500.0


@pytest.mark.parametrize(
    "blob", [None, "", "sha256:", "sha256:" + "g" * 64, BLOB + "\n", BLOB + "'; DROP TABLE x; --", "x" * 9999]
)  # fmt: skip
def test_what_is_no_digest_never_becomes_a_row(blob: str | None) -> None:
    assert key_of(replace(reading(), blob=blob)) is None


def test_a_rate_is_said_as_people_say_it() -> None:
    said = [rate_text(rate) for rate in (12.4, 3.0, 1.0, 0.6, 0.15, 0.05, 0.0)]
    assert said == [
        "12 times a day", "3 times a day", "once a day", "4 times a week", "once a week",
        "less than once a week", "less than once a week",
    ]  # fmt: skip


# ---- what a load is foreseen to take


def reading(context: int = 4096, parallel: int = 1, taken: int = 0, *, mapped: bool = False) -> RunnerReading:
    """A newborn runner of a blob of 1 GiB."""
    return RunnerReading(
        101, 7, 0.0, 100, proven=True, proof="", blob=BLOB, blob_bytes=GIB, context_tokens=context,
        parallel=parallel, weights_mapped=mapped, anon_bytes=taken,
    )  # fmt: skip


def world(*rows: Footprint, kv: int | None = 1000) -> Snapshot:
    """A snapshot with these rows, and a catalogue that knows the KV cache's bytes per token, or doesn't."""
    entry = CatalogueEntry(BLOB, ("m",), GIB, kv, 32768)
    return Snapshot(1.0, 1.0, catalogue=(entry,), footprints=with_rows(Ledger(), rows))


def size(context: int, anon: int, parallel: int = 1, **changes: int) -> Footprint:
    return Footprint(FootprintKey(BLOB, context, parallel), anon_bytes=anon, shmem_bytes=MIB, **changes)


def test_what_was_measured_comes_before_the_estimate() -> None:
    estimated = foreseen(reading(), world())
    measured = foreseen(reading(), world(size(4096, 1500 * MIB)))
    assert (estimated.count, estimated.source) == (
        GIB + 4096 * 1000,
        "estimated from its weights and context",
    )
    assert (measured.count, measured.source) == (1501 * MIB, "as measured before")


def test_another_context_is_scaled_by_its_cache_from_the_nearest() -> None:
    told = foreseen(reading(10_000), world(size(4096, 1500 * MIB), size(9000, 1600 * MIB)))
    assert told.count == 1601 * MIB + 1000 * 1000
    assert told.source == "as measured with 9000 tokens of context, for 10000"
    fewer = foreseen(reading(2000), world(size(4096, 1500 * MIB)))
    assert fewer.count == 1501 * MIB - 2096 * 1000


def test_the_same_number_of_slots_comes_before_a_nearer_context() -> None:
    told = foreseen(reading(8192, 4), world(size(8192, 1500 * MIB, 1), size(4096, 1400 * MIB, 4)))
    assert told.count == 1401 * MIB + 4096 * 1000


def test_scaling_down_never_goes_below_the_weights_save_where_a_gpu_holds_some() -> None:
    told = foreseen(reading(10), world(size(4096, GIB + MIB), kv=100_000))
    assert told.count == GIB
    shared = foreseen(reading(10), world(size(4096, 600 * MIB, vram_bytes=GIB), kv=100_000))
    assert shared.count is not None
    assert shared.count < GIB


def test_without_the_caches_size_only_the_very_context_counts() -> None:
    snapshot = world(size(4096, 1500 * MIB), kv=None)
    assert foreseen(reading(4096), snapshot).count == 1501 * MIB
    assert foreseen(reading(8192), snapshot).source.startswith("estimated")


def test_mapped_weights_are_never_foreseen_from_unmapped_ones_nor_the_other_way_round() -> None:
    """A client's ``use_mmap`` must not make the next load look small."""
    mapped = Footprint(FootprintKey(BLOB, 4096, 1, weights_mapped=True), anon_bytes=50 * MIB)
    assert foreseen(reading(), world(mapped)).source.startswith("estimated")
    assert foreseen(reading(mapped=True), world(mapped)).count == 50 * MIB
    assert nearest(with_rows(Ledger(), [size(4096, GIB)]), FootprintKey(BLOB, 4096, 1, True)) is None  # noqa: FBT003


def test_a_load_that_outgrows_what_was_measured_is_foreseen_by_the_estimate_again() -> None:
    """It was measured on a GPU, and now there is none: its last third must not come as a surprise."""
    snapshot = world(size(4096, 300 * MIB))
    assert foreseen(reading(taken=320 * MIB), snapshot).count == 301 * MIB
    assert foreseen(reading(taken=340 * MIB), snapshot).count == GIB + 4096 * 1000


@given(
    st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40),
    st.none() | st.integers(0, 2**24),
)  # fmt: skip
def test_what_is_foreseen_is_never_negative(
    anon: int, context: int, wanted: int, taken: int, kv: int | None
) -> None:
    told = foreseen(reading(wanted, taken=taken), world(size(context, anon), kv=kv))
    assert told.count is not None
    assert told.count >= 0
