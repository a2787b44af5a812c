"""Page cache that is being read back: whether it counts as used.

While pages that were just evicted are read back, some of the page cache is in use, and the sensors leave its
active part out of what is available. But a load reads its weights once: that it finds them evicted, as on
every small machine where another model was loaded meanwhile, says nothing of what anybody needs. Counted as
used, they would have loads aborted that fit: a real load of 600 MiB in a container of 1 GiB showed 347 MiB of
it within half a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ollama_guard.core.model import Activity, DomainReading, Snapshot
from ollama_guard.core.runners import Runner

# Seconds after a load, or after it last grew, in which what is read back is still its own: the sensors' word
# holds for 2.5 s after the last page, and a tick comes 2 s late at most before it counts as a stall.
OWN_SECONDS = 5.0


def counted(snapshot: Snapshot, runners: Iterable[Runner]) -> Snapshot:
    """The snapshot in which what a load reads back counts as available, as all other page cache does."""
    if not any(reading.reread_bytes for reading in snapshot.domains):
        return snapshot
    loading = {name for runner in runners if _reads(runner) for name in runner.reading.domains}
    domains = tuple(_with(d) if d.name in loading else d for d in snapshot.domains)
    return replace(snapshot, domains=domains)


def _reads(runner: Runner) -> bool:
    """Whether its load goes on, or has been over for a moment only."""
    if runner.activity is Activity.LOADING:
        return runner.still_seconds < OWN_SECONDS
    return 0.0 < runner.loaded_seconds < OWN_SECONDS


def _with(reading: DomainReading) -> DomainReading:
    if reading.available_bytes is None or not reading.reread_bytes:
        return reading
    available = reading.available_bytes + reading.reread_bytes
    return replace(
        reading, available_bytes=min(available, reading.capacity_bytes or available), reread_bytes=None
    )
