"""``[thresholds.…]``: when memory is short.

A threshold is one value: what is written is what is meant, so that a table without ``at_most`` has no
ceiling, rather than the default's.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, model_validator

from ollama_guard.core.policy import (
    CONTAINER_THRESHOLDS,
    HOST_THRESHOLDS,
    NO_CEILING_BYTES,
    Threshold,
    Thresholds,
)
from ollama_guard.settings import values
from ollama_guard.settings.order import misplaced
from ollama_guard.settings.tables import Table, named, short_form
from ollama_guard.settings.values import duration


class ThresholdTable(Table):
    """``"20%"``, ``"1.5GiB"`` or ``{ below = "20%", at_least = "600MiB", at_most = "4GiB" }``."""

    below: Annotated[float | int, BeforeValidator(values.share_or_size)]
    at_least: Annotated[int | None, BeforeValidator(values.size)] = None
    at_most: Annotated[int | None, BeforeValidator(values.size)] = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for key in ("at_least", "at_most"):
            if isinstance(self.below, int) and getattr(self, key) is not None:
                raise named(key, "has no meaning beside a fixed size; allowed: beside a percentage")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise named("at_least", "is above at_most; allowed: a floor that is not above the ceiling")
        return self

    @property
    def core(self) -> Threshold:
        """The threshold as the brain knows it."""
        if isinstance(self.below, int):
            return Threshold(0.0, self.below, self.below)
        return Threshold(
            self.below, self.at_least or 0, NO_CEILING_BYTES if self.at_most is None else self.at_most
        )

    @classmethod
    def of(cls, threshold: Threshold) -> ThresholdTable:
        """The table that compiles to this threshold."""
        floor, ceiling = threshold.floor_bytes, threshold.ceiling_bytes
        if threshold.ratio == 0:
            return cls.model_construct(below=floor, at_least=None, at_most=None)
        at_most = None if ceiling >= NO_CEILING_BYTES else ceiling
        return cls.model_construct(below=threshold.ratio, at_least=floor or None, at_most=at_most)


ThresholdValue = Annotated[ThresholdTable, short_form("below", "a share, a size, or a table of both")]
Grace = Annotated[float, duration(0, 600)]


class DomainTable(Table):
    """When memory is short in one kind of place."""

    soft: ThresholdValue
    """Below it idle models are unloaded, as few as bring it back: the least recently used first, after a week
    of the ledger those that are missed least."""
    hard: ThresholdValue
    """Below it nothing waits for `grace`; where no idle model is left, a busy one is unloaded after its
    answer, if there is time for that."""
    critical: ThresholdValue
    """Below it, and if nothing milder is in time, one model's process is killed, a busy one's if need be,
    rather than the machine lost."""
    grace: Grace
    """How long memory stays below soft before anything is done, so that a short peak costs no model. A fall
    so fast that relief would come too late does not wait."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        problem = misplaced(self.core)
        if problem is not None:
            raise named(*problem)
        return self

    @property
    def core(self) -> Thresholds:
        """The thresholds as the brain knows them."""
        return Thresholds(self.soft.core, self.hard.core, self.critical.core, self.grace)


class HostTable(DomainTable):
    """The whole machine's memory."""

    soft: ThresholdValue = ThresholdTable.of(HOST_THRESHOLDS.soft)
    hard: ThresholdValue = ThresholdTable.of(HOST_THRESHOLDS.hard)
    critical: ThresholdValue = ThresholdTable.of(HOST_THRESHOLDS.critical)
    grace: Grace = HOST_THRESHOLDS.grace_seconds


class ContainerTable(DomainTable):
    """The memory limit of Ollama's container or unit, or of anything above it, whichever is tightest.

    Its defaults are smaller than the host's, since nothing but Ollama lives there.
    """

    soft: ThresholdValue = ThresholdTable.of(CONTAINER_THRESHOLDS.soft)
    hard: ThresholdValue = ThresholdTable.of(CONTAINER_THRESHOLDS.hard)
    critical: ThresholdValue = ThresholdTable.of(CONTAINER_THRESHOLDS.critical)
    grace: Grace = CONTAINER_THRESHOLDS.grace_seconds


class ThresholdsTable(Table):
    """When memory is short: a threshold is what is still available.

    It is `"20%"` of the memory, a fixed `"1.5GiB"`, or a share with a floor (`at_least`) and a ceiling
    (`at_most`). A threshold is one value: without `at_least` there is no floor, without `at_most` no ceiling.
    Soft may take a half of the memory at most, hard a quarter, critical an eighth, so that a floor never eats
    a small container, and they have to stay in this order at every size of memory.

    The floors of the defaults are what a system without swap needs to stay quick however small it is; the
    ceilings keep a large machine from wasting memory.
    """

    host: HostTable = HostTable()
    container: ContainerTable = ContainerTable()
