"""The footprint ledger's arithmetic: how lessons change rows, and what is looked up in them.

Worth is GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HP Labs HPL-98-69, 1998): frequency x cost / size. Instead of
its inflation term, old requests fade here, which ages the frequency just as well and needs no history of
evictions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ollama_guard.core import sane
from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger, Lesson
from ollama_guard.core.model import RunnerReading

DAY_SECONDS = 86400.0
# How long a ledger must have been kept until frequencies say more than who came last (design, section 5).
WEEK_SECONDS = 7 * DAY_SECONDS
# A request counts half after this long (seconds): weekday habits show, and last month's model fades.
HALF_LIFE_SECONDS = WEEK_SECONDS
# Weight of the newest load or unload time against the past ones, as in `outcomes`.
TIME_WEIGHT = 0.3
# Rows kept in all and per blob (one per context that clients ask for): a tick looks through those of each
# runner's blob, and a thousand rows are 400 KiB on the wire. The longest unused go first.
ROWS_KEPT = 1000
ROWS_PER_BLOB = 8

_BLOB = re.compile(r"sha256:[0-9a-f]{64}\Z")


def key_of(reading: RunnerReading) -> FootprintKey | None:
    """The row of a runner, None while its blob is not known or is no digest."""
    context, parallel = sane.count(reading.context_tokens), sane.count(reading.parallel)
    key = FootprintKey(reading.blob or "", context or 0, parallel or 0, bool(reading.weights_mapped))
    return key if is_possible(key) else None


def is_possible(key: FootprintKey) -> bool:
    """Whether a runner can have this key: its blob is a digest, its numbers are counts."""
    counts = (key.context_tokens, key.parallel)
    return bool(_BLOB.match(key.blob)) and all(sane.count(number) is not None for number in counts)


def watched_seconds(ledger: Ledger, now: float) -> float:
    """For how long the ledger has been kept, at ``now``."""
    return max(0.0, sane.seconds(ledger.watched_seconds) or 0.0) + max(
        0.0, now - (sane.seconds(ledger.at) or 0.0)
    )


def has_a_week(ledger: Ledger, now: float) -> bool:
    """Whether frequencies can be told from it."""
    return bool(ledger.by_blob) and watched_seconds(ledger, now) >= WEEK_SECONDS


def exact(ledger: Ledger, key: FootprintKey) -> Footprint | None:
    """The row of just this key."""
    return next((row for row in ledger.by_blob.get(key.blob, ()) if row.key == key), None)


def nearest(ledger: Ledger, key: FootprintKey) -> Footprint | None:
    """The measured row that tells most of the size at ``key``: the same slots, then the nearest context."""
    rows = [
        row
        for row in ledger.by_blob.get(key.blob, ())
        if row.anon_bytes is not None
        and row.key.weights_mapped == key.weights_mapped
        and (row.key == key or (row.key.context_tokens and key.context_tokens))
    ]
    return min(rows, key=lambda row: _distance(row.key, key), default=None)


def _distance(one: FootprintKey, other: FootprintKey) -> tuple[bool, int]:
    return (one.parallel != other.parallel, abs(one.context_tokens - other.context_tokens))


def asked_per_day(ledger: Ledger, blob: str, now: float) -> float:
    """How often a blob is asked for, whatever the context: its faded count over the faded time.

    A count that fades with half-life H has, at a steady rate r over a time W, the expectation
    r H / ln 2 (1 - 2^(-W/H)); this solves it for r.
    """
    kept = watched_seconds(ledger, now)
    asked = sum(_faded(row, kept) for row in ledger.by_blob.get(blob, ()))
    faded_days = HALF_LIFE_SECONDS / DAY_SECONDS / math.log(2) * (1 - math.exp2(-kept / HALF_LIFE_SECONDS))
    return asked / faded_days if faded_days > 0 else 0.0


def _faded(row: Footprint, kept_seconds: float) -> float:
    asked, asked_at = sane.duration(row.asked) or 0.0, sane.duration(row.asked_at) or 0.0
    return asked * math.exp2(-max(0.0, kept_seconds - asked_at) / HALF_LIFE_SECONDS)


def learned(known: Footprint | None, lesson: Lesson, kept_seconds: float, wall: float) -> Footprint:
    """The row after a lesson, at ``kept_seconds`` of the ledger. Sizes: the newest. Times: running means."""
    row = known or Footprint(lesson.key, asked_at=kept_seconds, first_seen_wall=wall)
    if lesson.uses:
        asked = _faded(row, kept_seconds) + lesson.uses
        row = replace(row, asked=asked, asked_at=max(row.asked_at, kept_seconds), last_used_wall=wall)
    return replace(
        row,
        anon_bytes=_newest(row.anon_bytes, lesson.anon_bytes),
        shmem_bytes=_newest(row.shmem_bytes, lesson.shmem_bytes),
        file_bytes=_newest(row.file_bytes, lesson.file_bytes),
        vram_bytes=_newest(row.vram_bytes, lesson.vram_bytes),
        peak_bytes=max(row.peak_bytes or 0, lesson.peak_bytes) if lesson.peak_bytes else row.peak_bytes,
        load_seconds=_mean(row.load_seconds, lesson.load_seconds),
        unload_seconds=_mean(row.unload_seconds, lesson.unload_seconds),
        loads=row.loads + lesson.loads,
        uses=row.uses + lesson.uses,
        answers_cut=row.answers_cut + lesson.answers_cut,
    )


def _newest(known: int | None, told: int | None) -> int | None:
    return known if told is None else told


def _mean(known: float | None, told: float | None) -> float | None:
    if known is None or told is None:
        return known if told is None else told
    return known + TIME_WEIGHT * (told - known)


def rows_of(ledger: Ledger) -> Iterator[Footprint]:
    """Every row."""
    return (row for rows in ledger.by_blob.values() for row in rows)


def taught(
    ledger: Ledger, lessons: Iterable[Lesson], now: float, wall: float
) -> tuple[Ledger, tuple[Footprint, ...]]:
    """The ledger after some lessons, and the rows that changed."""
    kept = watched_seconds(ledger, now)
    changed: dict[FootprintKey, Footprint] = {}
    for lesson in lessons:
        known = changed.get(lesson.key) or exact(ledger, lesson.key)
        changed[lesson.key] = sane.footprint_of(learned(known, lesson, kept, wall))
    rows = tuple(changed.values())
    return replace(with_rows(ledger, rows), at=now, watched_seconds=kept), rows


def with_rows(ledger: Ledger, rows: Iterable[Footprint]) -> Ledger:
    """The ledger with these rows in the place of those of the same keys, within its bounds."""
    by_blob = dict(ledger.by_blob)
    for row in map(sane.footprint_of, rows):
        others = (other for other in by_blob.get(row.key.blob, ()) if other.key != row.key)
        newest_first = sorted((row, *others), key=lambda one: -one.asked_at)
        by_blob[row.key.blob] = tuple(newest_first[:ROWS_PER_BLOB])
    return replace(ledger, by_blob=_bounded(by_blob))


def _bounded(by_blob: Mapping[str, tuple[Footprint, ...]]) -> Mapping[str, tuple[Footprint, ...]]:
    """At most `ROWS_KEPT` rows: whole blobs go, the longest unused first."""
    left = ROWS_KEPT
    if sum(map(len, by_blob.values())) <= left:
        return by_blob
    kept = {}
    for blob, rows in sorted(by_blob.items(), key=lambda item: -max(row.asked_at for row in item[1])):
        if len(rows) > left:
            break
        left -= len(rows)
        kept[blob] = rows
    return kept
