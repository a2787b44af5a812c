"""Readings as they may be judged: what is absurd becomes unknown, never a number to act on.

Sensors refuse absurd values themselves and say why; this is the second fence, so that no snapshot at
all, however it came about, makes `decide` fail or act on a number that can't be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from ollama_guard.core.footprint import Footprint
from ollama_guard.core.model import ApiReading, DomainReading, LoadedModel, Outcome, RunnerReading, Snapshot

T = TypeVar("T")

# Bytes, pages, tokens and ticks above this can't be (2^60 bytes are an exbibyte).
LARGEST_COUNT = 2**60
# Seconds above this can't be (30,000 years), since boot or since 1970.
LATEST_SECONDS = 1e12
_FOOTPRINT_SIZES = ("anon_bytes", "shmem_bytes", "file_bytes", "vram_bytes", "peak_bytes")
_FOOTPRINT_COUNTS = ("loads", "uses", "answers_cut")
_FOOTPRINT_TIMES = ("load_seconds", "unload_seconds")
_FOOTPRINT_MOMENTS = ("asked", "asked_at", "first_seen_wall", "last_used_wall")
# Characters of a model's name; Ollama itself refuses names above about 350.
LONGEST_NAME = 512
# Names of a model that are written down with it, and bytes that they take together as JSON: one of any
# length, or two as people choose them. The state map holds 64 KiB for 32 condemned models, 12 targets and
# all else.
NAMES_WRITTEN = 2
WRITTEN_BYTES = LONGEST_NAME + 2


def count(value: int | None) -> int | None:
    """A number of bytes or the like, None when it is absurd."""
    return value if value is not None and 0 <= value <= LARGEST_COUNT else None


def seconds(value: float | None) -> float | None:
    """A time or duration in seconds, None when it is not finite or absurd."""
    return value if value is not None and -LATEST_SECONDS <= value <= LATEST_SECONDS else None


def duration(value: float | None) -> float | None:
    """A time or duration that can't be negative, None when it is, or absurd."""
    checked = seconds(value)
    return None if checked is None or checked < 0 else checked


def names(given: Iterable[str]) -> tuple[str, ...]:
    """The names of a model that can be said to Ollama, each once."""
    return tuple(name for name in dict.fromkeys(given) if 0 < len(name) <= LONGEST_NAME)


def written_names(given: Iterable[str]) -> tuple[str, ...]:
    """Those of a model's names that are written down with it: the first that there is room for."""
    kept: list[str] = []
    left = WRITTEN_BYTES
    for name in dict.fromkeys(given):
        takes = len(json.dumps(name))
        if takes <= left and len(kept) < NAMES_WRITTEN:
            kept.append(name)
            left -= takes
    return tuple(kept)


def snapshot_of(snapshot: Snapshot, last_at: float | None) -> Snapshot:
    """The same snapshot without what can't be; ``last_at`` stands in for a time that is no time."""
    now = seconds(snapshot.now)
    if now is None or now < 0:
        now = last_at or 0.0
    return replace(
        snapshot,
        now=now,
        wall=seconds(snapshot.wall) or 0.0,
        domains=tuple({d.name: _domain(d) for d in reversed(snapshot.domains)}.values())[::-1],
        runners=_runners(snapshot.runners, now),
        api=_api(snapshot.api, now),
    )


def outcome_of(outcome: Outcome, last_at: float | None) -> Outcome:
    """The same outcome with a time and a count that can be."""
    at = seconds(outcome.at)
    return replace(
        outcome, at=(last_at or 0.0) if at is None else at, freed_bytes=count(outcome.freed_bytes) or 0
    )


def footprint_of(row: Footprint) -> Footprint:
    """The same row without sizes, times and counts that can't be."""
    return _with(
        row,
        **{name: count(getattr(row, name)) for name in _FOOTPRINT_SIZES},
        **{name: count(getattr(row, name)) or 0 for name in _FOOTPRINT_COUNTS},
        **{name: duration(getattr(row, name)) for name in _FOOTPRINT_TIMES},
        **{name: duration(getattr(row, name)) or 0.0 for name in _FOOTPRINT_MOMENTS},
    )


def _with(reading: T, **fields: object) -> T:
    """The reading with these fields; itself when nothing changes, which is nearly always."""
    changed = {name: value for name, value in fields.items() if getattr(reading, name) != value}
    return replace(reading, **changed) if changed else reading  # type: ignore[type-var]  # all are dataclasses


def _domain(reading: DomainReading) -> DomainReading:
    """A domain whose available can't be read, or is more than there is, has none, and says so."""
    capacity, available, reason = (
        count(reading.capacity_bytes),
        count(reading.available_bytes),
        reading.reason,
    )
    if reading.available_bytes is not None and (available is None or available > (capacity or available)):
        available, reason = None, reason or f"absurd: {str(reading.available_bytes)[:24]} bytes available"
    if reading.capacity_bytes is not None and not capacity:
        capacity, available, reason = None, None, reason or "absurd capacity"
    return _with(
        reading,
        capacity_bytes=capacity,
        available_bytes=available,
        reason=reason,
        psi_some_avg10=_percent(reading.psi_some_avg10),
        psi_full_avg10=_percent(reading.psi_full_avg10),
        cache_bytes=count(reading.cache_bytes),
        reread_bytes=count(reading.reread_bytes),
    )


def _percent(value: float | None) -> float | None:
    return value if value is not None and 0.0 <= value <= 100.0 else None


def _runners(readings: tuple[RunnerReading, ...], now: float) -> tuple[RunnerReading, ...]:
    """One reading per pid (the youngest process that has it), its numbers checked."""
    youngest: dict[int, RunnerReading] = {}
    for reading in readings:
        held = youngest.get(reading.pid)
        if (
            reading.pid > 1
            and 0 <= reading.start_ticks <= LARGEST_COUNT
            and (held is None or reading.start_ticks > held.start_ticks)
        ):
            youngest[reading.pid] = reading
    return tuple(_runner(reading, now) for reading in youngest.values())


def _runner(reading: RunnerReading, now: float) -> RunnerReading:
    born_at = seconds(reading.born_at)
    return _with(
        reading,
        born_at=now if born_at is None else min(born_at, now),
        blob=reading.blob or None,
        blob_bytes=count(reading.blob_bytes),
        context_tokens=count(reading.context_tokens),
        parallel=count(reading.parallel),
        anon_bytes=count(reading.anon_bytes),
        shmem_bytes=count(reading.shmem_bytes),
        file_bytes=count(reading.file_bytes),
        swap_bytes=count(reading.swap_bytes),
        cpu_seconds=duration(reading.cpu_seconds),
    )


def _api(api: ApiReading, now: float) -> ApiReading:
    return _with(
        api,
        probed_at=_past(api.probed_at, now),
        answered_at=_past(api.answered_at, now),
        loaded_at=_past(api.loaded_at, now),
        latency_seconds=duration(api.latency_seconds),
        loaded=tuple(_loaded(model) for model in api.loaded if names([model.name])),
    )


def _past(at: float | None, now: float) -> float | None:
    checked = seconds(at)
    return None if checked is None else min(checked, now)


def _loaded(model: LoadedModel) -> LoadedModel:
    expires = model.expires_in_seconds
    return _with(
        model,
        blob=model.blob or None,
        size_bytes=count(model.size_bytes),
        vram_bytes=count(model.vram_bytes),
        expires_in_seconds=expires if expires is not None and math.isfinite(expires) else None,
    )
