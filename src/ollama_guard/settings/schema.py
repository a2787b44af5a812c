"""The tables and keys of the file. Defaults come from `core.policy`, so that they are stated once.

Unknown keys are errors; values are checked by `settings.values`; what each key is for stands in
``config/ollama-guard.toml``. A threshold is one value: what is written is what is meant, so that a
table without ``at_most`` has no ceiling, rather than the default's.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from ollama_guard.core.model import Mode, Preference
from ollama_guard.core.policy import (
    GIB,
    MIB,
    NO_CEILING_BYTES,
    Authority,
    ModelRule,
    Policy,
    Protect,
    Threshold,
    Thresholds,
)
from ollama_guard.settings import values
from ollama_guard.settings.order import misplaced
from ollama_guard.settings.values import duration, size_within, whole, word

DEFAULT = Policy()

KIB = 1024

LARGEST_RECLAIM = 0.5  # of a domain: above it, relief would aim at more than soft itself may ask for


class Table(BaseModel):
    """A table of the file: nothing unknown in it, nothing converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _named(key: str, sentence: str) -> PydanticCustomError:
    """A problem of one key of a table, found when looking at several of them together."""
    return PydanticCustomError("together", "{sentence}", {"key": key, "sentence": sentence})


def _short_form(key: str) -> BeforeValidator:
    """Anything but a table stands for a table with that one key."""
    return BeforeValidator(lambda value: value if isinstance(value, (dict, Table)) else {key: value})


class ThresholdTable(Table):
    """``"20%"``, ``"1.5GiB"`` or ``{ below = "20%", at_least = "600MiB", at_most = "4GiB" }``."""

    below: Annotated[float | int, BeforeValidator(values.share_or_size)]
    at_least: Annotated[int | None, BeforeValidator(values.size)] = None
    at_most: Annotated[int | None, BeforeValidator(values.size)] = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for key in ("at_least", "at_most"):
            if isinstance(self.below, int) and getattr(self, key) is not None:
                raise _named(key, "has no meaning beside a fixed size; allowed: beside a percentage")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise _named("at_least", "is above at_most; allowed: a floor that is not above the ceiling")
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


ThresholdValue = Annotated[ThresholdTable, _short_form("below")]


class DomainTable(Table):
    """When memory is short in one kind of place."""

    soft: ThresholdValue
    hard: ThresholdValue
    critical: ThresholdValue
    grace: Annotated[float, duration(0, 600)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        problem = misplaced(self.core)
        if problem is not None:
            raise _named(*problem)
        return self

    @property
    def core(self) -> Thresholds:
        """The thresholds as the brain knows them."""
        return Thresholds(self.soft.core, self.hard.core, self.critical.core, self.grace)


class HostTable(DomainTable):
    """The whole machine's memory."""

    soft: ThresholdValue = ThresholdTable.of(DEFAULT.host.soft)
    hard: ThresholdValue = ThresholdTable.of(DEFAULT.host.hard)
    critical: ThresholdValue = ThresholdTable.of(DEFAULT.host.critical)
    grace: Annotated[float, duration(0, 600)] = DEFAULT.host.grace_seconds


class ContainerTable(DomainTable):
    """The memory that Ollama's container or unit is limited to."""

    soft: ThresholdValue = ThresholdTable.of(DEFAULT.container.soft)
    hard: ThresholdValue = ThresholdTable.of(DEFAULT.container.hard)
    critical: ThresholdValue = ThresholdTable.of(DEFAULT.container.critical)
    grace: Annotated[float, duration(0, 600)] = DEFAULT.container.grace_seconds


class ThresholdsTable(Table):
    """One table per kind of place with finite memory."""

    host: HostTable = HostTable()
    container: ContainerTable = ContainerTable()


class OllamaTable(Table):
    """Where Ollama is, and what may be done to it."""

    url: Annotated[str, BeforeValidator(values.url)] = DEFAULT.ollama.url
    authority: Annotated[Authority, word(Authority)] = DEFAULT.ollama.authority
    user: Annotated[int | None, BeforeValidator(values.user)] = DEFAULT.ollama.user_id
    cgroup: Annotated[str, BeforeValidator(values.cgroup)] = DEFAULT.ollama.cgroup
    poll: Annotated[float, duration(1, 600)] = DEFAULT.ollama.poll_seconds
    unresponsive_after: Annotated[float, duration(2, 3600)] = DEFAULT.ollama.unresponsive_after_seconds
    request_timeout: Annotated[float, duration(0.1, 120)] = DEFAULT.ollama.request_timeout_seconds

    @model_validator(mode="after")
    def _outlasts_a_poll(self) -> Self:
        if self.unresponsive_after <= self.poll:
            raise _named(
                "unresponsive_after", "is not longer than poll; allowed: more than one poll of silence"
            )
        return self


class ReclaimTable(Table):
    """``"3%"``, ``"500MiB"`` or ``{ share = "3%", at_least = "128MiB" }``."""

    share: Annotated[float | int, BeforeValidator(values.share_or_size)]
    at_least: Annotated[int, BeforeValidator(values.size)] = 0

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if isinstance(self.share, int) and self.at_least:
            raise _named("at_least", "has no meaning beside a fixed size; allowed: beside a percentage")
        if self.ratio > LARGEST_RECLAIM:
            raise _named("share", "is more than relief can be asked to free; allowed: 0% to 50%")
        return self

    @property
    def ratio(self) -> float:
        """The share as a ratio; 0 for a fixed size."""
        return self.share if isinstance(self.share, float) else 0.0

    @property
    def floor_bytes(self) -> int:
        """What relief aims for at least, in bytes."""
        return self.share if isinstance(self.share, int) else self.at_least


DEFAULT_RECLAIM = ReclaimTable.model_construct(
    share=DEFAULT.min_reclaim_ratio, at_least=DEFAULT.min_reclaim_floor_bytes
)


class PolicyTable(Table):
    """How the guard acts."""

    mode: Annotated[Mode, word(Mode, Mode.PAUSED)] = DEFAULT.ollama.mode
    transition: Annotated[float, duration(0, 3600)] = DEFAULT.transition_seconds
    min_reclaim: Annotated[ReclaimTable, _short_form("share")] = DEFAULT_RECLAIM
    post_action_delay: Annotated[float, duration(0, 60)] = DEFAULT.post_action_delay_seconds
    unload_deadline: Annotated[float, duration(0.5, 600)] = DEFAULT.unload_deadline_seconds
    drain_deadline: Annotated[float, duration(1, 3600)] = DEFAULT.drain_deadline_seconds
    condemned: Annotated[float, duration(10, 86400)] = DEFAULT.condemned_seconds
    condemned_at_most: Annotated[float, duration(10, 30 * 86400)] = DEFAULT.condemned_max_seconds
    kills_per_hour: Annotated[int, whole(1, 3600)] = DEFAULT.kills_per_hour

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.condemned_at_most < self.condemned:
            raise _named("condemned_at_most", "is shorter than condemned; allowed: as long or longer")
        return self


class CapTable(Table):
    """How many models may stay loaded."""

    soft_max: Annotated[int | None, whole(1, 1000)] = DEFAULT.cap.soft_max


class RecordTable(Table):
    """The flight recorder."""

    enabled: Annotated[bool, BeforeValidator(values.switch)] = DEFAULT.record.enabled
    max_total: Annotated[int, size_within(1 * MIB, 1024 * GIB)] = DEFAULT.record.max_total_bytes
    max_file: Annotated[int, size_within(64 * KIB, 1 * GIB)] = DEFAULT.record.max_file_bytes
    folder: Annotated[str, BeforeValidator(values.folder)] = DEFAULT.record.folder

    @model_validator(mode="after")
    def _holds_two(self) -> Self:
        if self.max_total < 2 * self.max_file:
            raise _named("max_total", "is less than two files; allowed: twice max_file or more")
        return self


class ModelTable(Table):
    """What the owner says about one model."""

    preference: Annotated[Preference, word(Preference)] = ModelRule().preference
    protect: Annotated[Protect, word(Protect)] = ModelRule().protect


class File(Table):
    """The whole file."""

    ollama: OllamaTable = OllamaTable()
    thresholds: ThresholdsTable = ThresholdsTable()
    policy: PolicyTable = PolicyTable()
    cap: CapTable = CapTable()
    record: RecordTable = RecordTable()
    models: dict[Annotated[str, BeforeValidator(values.model_name)], ModelTable] = {}
