"""The user's ladder of models, small to large: values only (`core.allowed` judges it)."""

from __future__ import annotations

from dataclasses import dataclass


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
