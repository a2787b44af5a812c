"""What memory would have been without the guard: what was measured, plus what the guard took back.

    available without the guard = budget - measured use - what is missing of each model that it took away

Nobody else in the show unloads anything (keep-alive is an hour), so a model that the guard unloaded would
have kept its bytes, as measured when they came back. A load that it aborted would have gone on at the speed
that the fake was told, up to its foreseen size. What such a model really holds again is not counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Taken:
    """What one model would hold: ``full_bytes``, reached since ``since`` (seconds) at ``pace`` bytes/s.

    ``pace`` None: it held them already.
    """

    full_bytes: int
    since: float
    pace: float | None = None

    def bytes_at(self, at: float) -> int:
        """What it would hold at this time."""
        if self.pace is None:
            return self.full_bytes
        return min(self.full_bytes, int(self.pace * max(0.0, at - self.since)))


class Without:
    """The other machine, told what happens on this one; seconds are those of the show."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._taken: dict[str, Taken] = {}
        self.available_bytes = budget_bytes
        self.worst_bytes = budget_bytes
        self.out_at: float | None = None

    def unloaded(self, model: str, freed_bytes: int, at: float) -> None:
        """The guard unloaded or killed a loaded model."""
        self._taken[model] = Taken(freed_bytes, at)

    def aborted(self, model: str, needs_bytes: int, born_at: float, pace: float) -> None:
        """The guard aborted a load; only the first try counts, the others would have found it loading."""
        self._taken.setdefault(model, Taken(needs_bytes, born_at, pace))

    def sample(self, at: float, held: Mapping[str, int]) -> None:
        """Take one measurement: what each actor holds, by name."""
        missing = sum(max(0, taken.bytes_at(at) - held.get(model, 0)) for model, taken in self._taken.items())
        self.available_bytes = self._budget_bytes - sum(held.values()) - missing
        self.worst_bytes = min(self.worst_bytes, self.available_bytes)
        if self.available_bytes <= 0 and self.out_at is None:
            self.out_at = at
