"""The tables of the user's ladder, with their text for the owner (`settings.tables` says where that goes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ollama_guard.core.policy import GIB, MIB, spelled
from ollama_guard.core.tiers import EXAMPLE, Tier
from ollama_guard.settings import values
from ollama_guard.settings.tables import Table, named
from ollama_guard.settings.units import format_bytes
from ollama_guard.settings.values import size_within

MOST_TIERS = 16  # rungs: each is judged twice a second, and nobody tells more of them apart

_SHOWN = EXAMPLE[0]


class TierTable(Table):
    """One rung of your ladder of models: `[[tiers]]` stands once for each, from small to large.

    The guard tells which of them may be used now (`ollama-guard tiers`, `largest_allowed` in the status):
    down at once when memory gets short, up again after quiet. It loads none of them. What follows is an
    example: put in models that are installed here; `ollama-guard init` proposes a ladder of those.
    """

    name: Annotated[str, values.TIER_NAME] = Field(examples=[_SHOWN.name])
    """What you call it."""
    model: Annotated[str, values.TIER_MODEL] = Field(examples=[_SHOWN.model])
    """The model, by its name in `ollama list`."""
    purpose: Annotated[str, values.PURPOSE] = Field(default="", alias="for", examples=[_SHOWN.purpose])
    """What it is good for, for people."""
    disk: Annotated[int | None, size_within(1 * MIB, 1024 * GIB)] = Field(default=None, examples=["91MB"])
    """What you expect it to take on disk; not less than the tier before it, unless `memory` of both tells
    their order. Once it is installed, its real size is shown."""
    memory: Annotated[int | None, size_within(1 * MIB, 1024 * GIB)] = Field(default=None, examples=["200MB"])
    """What you expect it to take in memory; not less than the tier before it. It counts where it is more than
    the model's file lets foresee, until the first load was measured."""

    @property
    def core(self) -> Tier:
        """The table as the brain knows it."""
        return Tier(self.name, self.model, self.purpose, self.disk, self.memory)


def in_order(tiers: Sequence[TierTable]) -> Sequence[TierTable]:
    """The same tiers, if they make a ladder.

    Raises:
        PydanticCustomError: which key of which tier is wrong.
    """
    if len(tiers) > MOST_TIERS:
        raise named("name", f"is one too many; allowed: {MOST_TIERS} tiers", at=(str(MOST_TIERS),))
    names: set[str] = set()
    models: dict[str, str] = {}
    for place, tier in enumerate(tiers):
        at = (str(place),)
        if tier.name in names:
            raise named("name", "is the name of an earlier tier too; allowed: each name once", at=at)
        if spelled(tier.model) in models:
            earlier = models[spelled(tier.model)]
            raise named("model", f"is the model of {earlier} too; allowed: each model once", at=at)
        _after_smaller(tiers[:place], tier, at)
        names.add(tier.name)
        models[spelled(tier.model)] = tier.name
    return tiers


def _after_smaller(before: Sequence[TierTable], tier: TierTable, at: tuple[str, ...]) -> None:
    """Compare with the tiers before it: by memory, which is what the ladder is about, else by disk.

    A small model with a long context may well take more memory than one that is larger on disk.

    Raises:
        PydanticCustomError: it is smaller than one of them.
    """
    for other in reversed(before):
        for key, own, earlier in (("memory", tier.memory, other.memory), ("disk", tier.disk, other.disk)):
            if own is None or earlier is None:
                continue
            if own < earlier:
                more = f"{other.name} before it has {format_bytes(earlier)}"
                problem = f"is out of order: {more}; allowed: tiers from small to large, with as much or more"
                raise named(key, problem, at=at)
            break
