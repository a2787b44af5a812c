"""What models really cost, as measured: the rows of the footprint ledger, and what teaches them.

One row per `FootprintKey`. `hands` keep the rows on disk (`store.footprints`) and send them to the sentinel,
which puts them into each snapshot; what a tick taught goes the other way, as `Lesson`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FootprintKey:
    """All that the size of a runner hangs on, as its command line tells it.

    ``context_tokens`` is the total over all ``parallel`` slots; 0 means that the command line didn't tell.
    With ``weights_mapped`` the weights are page cache, else anonymous memory (facts 3.2): a client's
    ``use_mmap`` changes that from load to load, so one may not be foreseen from the other.
    """

    blob: str
    context_tokens: int = 0
    parallel: int = 0
    weights_mapped: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """One row: sizes as the newest load left them, once it had settled; None was never measured.

    ``anon_bytes`` includes what lay in swap; ``peak_bytes`` is the most that a runner ever held (anonymous,
    shared, swapped): it grows with the prompt cache (facts 3.3), so no load is judged by it.
    ``load_seconds`` and ``unload_seconds`` are running means. ``uses`` are loads and busy spells after them.
    ``asked`` is the same count with what is a week old counting half, as of ``asked_at``, which is in the
    ledger's own time (`Ledger.watched_seconds`). ``*_wall`` are epoch seconds, for display only.
    """

    key: FootprintKey
    anon_bytes: int | None = None
    shmem_bytes: int | None = None
    file_bytes: int | None = None
    vram_bytes: int | None = None
    peak_bytes: int | None = None
    load_seconds: float | None = None
    unload_seconds: float | None = None
    loads: int = 0
    uses: int = 0
    answers_cut: int = 0
    asked: float = 0.0
    asked_at: float = 0.0
    first_seen_wall: float = 0.0
    last_used_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one tick taught of one row; None and 0 teach nothing. Fields as in `Footprint`."""

    key: FootprintKey
    anon_bytes: int | None = None
    shmem_bytes: int | None = None
    file_bytes: int | None = None
    vram_bytes: int | None = None
    peak_bytes: int | None = None
    load_seconds: float | None = None
    unload_seconds: float | None = None
    loads: int = 0
    uses: int = 0
    answers_cut: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every row by its blob: the index that a tick looks things up in, made when a row changes.

    ``watched_seconds`` is for how long, all in all, guards had kept this ledger at ``at`` (boottime
    seconds). It is the ledger's own time: no jump of the wall clock makes it a week old.
    """

    at: float = 0.0
    watched_seconds: float = 0.0
    by_blob: Mapping[str, tuple[Footprint, ...]] = field(default_factory=dict)
