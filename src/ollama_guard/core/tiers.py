"""The user's ladder of models, small to large: values only (`allowed` judges it)."""

from __future__ import annotations

from dataclasses import dataclass

_MB = 1000**2  # as `ollama list` and model libraries count


@dataclass(frozen=True, slots=True)
class Tier:
    """One rung of the ladder: a model by its name in ``ollama list``, and what it is good for.

    ``disk_bytes`` and ``memory_bytes`` are what the owner expects it to take, for as long as nothing is
    measured; None where nothing was said.
    """

    name: str
    model: str
    purpose: str = ""
    disk_bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TierState:
    """What is remembered of a tier; ``allowed`` is None for as long as it could not be told yet.

    ``unfit_at`` is when its load was last seen not to go through, ``strained_at`` when memory was last below
    soft with it: both are None once a quiet transition has passed since then. ``crowded_at`` is since when
    only what other models do has been in its way. ``spared_at`` and ``risen_at`` are of the one that is
    spared, see `allowed`: when it was last the best choice, and when it took the place of a smaller one.
    """

    name: str
    model: str
    allowed: bool | None
    reason: str
    unfit_at: float | None = None
    strained_at: float | None = None
    crowded_at: float | None = None
    spared_at: float | None = None
    risen_at: float | None = None

    @property
    def waits(self) -> bool:
        """Whether memory refuses it, or did so a moment ago."""
        return self.unfit_at is not None or self.strained_at is not None


EXAMPLE = (
    Tier("light", "smollm:135m", "health checks, status, simple questions", 91 * _MB, 200 * _MB),
    Tier("default", "smollm:360m", "agents, code, structured answers", 229 * _MB, 400 * _MB),
    Tier("reasoning", "tinyllama:1.1b", "planning, debugging, detailed explanations", 637 * _MB, 800 * _MB),
    Tier("fallback", "qwen2.5:3b", "critical tasks, sparingly", 1900 * _MB, 2500 * _MB),
)
"""The ladder that the shipped file shows, and whose names and purposes `init` proposes."""
