"""The table of the freeze playbook, with its text for the owner (`settings.tables` says where that goes)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from ollama_guard.core.policy import GIB, MIB, PlaybookPolicy
from ollama_guard.settings import values
from ollama_guard.settings.ignored import without_ignored
from ollama_guard.settings.tables import Table
from ollama_guard.settings.values import duration, number, share_within, size_within, whole

DEFAULT = PlaybookPolicy()


class FreezeTable(Table):
    """What counts as a freeze, how often the recovery may run, and what Ollama is started with after it.

    A freeze needs two things at once: Ollama is silent through retries, or memory thrashes; and a process of
    it stands still though it is asked, or pressure is full while it holds a lot, or the kernel kills again
    and again, or an unload is never honoured. Then, with `authority = "server"`: constrain, stop, hide what
    can't fit, start, verify.

    `max_vram` is accepted and does nothing: Ollama has not read OLLAMA_MAX_VRAM since 0.2.8. `check-config`
    and the log say so.
    """

    enabled: Annotated[bool, values.SWITCH] = DEFAULT.enabled
    """Whether the recovery runs by itself; by hand it always can."""
    runs_per_hour: Annotated[int, whole(1, 60)] = DEFAULT.runs_per_hour
    """How often it may run in an hour before the guard holds and says so. Each further run also waits
    longer: two minutes after the first, then four, and so on."""
    quiet: Annotated[float, duration(30, 86400)] = DEFAULT.quiet_seconds
    """How long all must have been well before the constraints below are lifted again, and as long again
    before the restart that ends them; twice as long after each further run within a day."""
    stuck_after: Annotated[float, duration(5, 3600)] = DEFAULT.stuck_seconds
    """How long a process must have stood still, counted from when Ollama's silence is sure."""
    full_above: Annotated[float, share_within(0.05, 1.0)] = DEFAULT.full_percent / 100
    """The share of time in which all wait for memory (`full` in /proc/pressure/memory) that counts."""
    full_for: Annotated[float, duration(5, 3600)] = DEFAULT.full_seconds
    """How long it must have been above that."""
    young_for: Annotated[float, duration(0, 3600)] = DEFAULT.young_seconds
    """A server younger than this is starting, not frozen."""
    max_loaded_models: Annotated[int, whole(1, 100)] = DEFAULT.max_loaded_models
    """After a freeze: how many models Ollama keeps loaded (OLLAMA_MAX_LOADED_MODELS)."""
    num_parallel: Annotated[int, whole(1, 64)] = DEFAULT.num_parallel
    """After a freeze: answers at a time; each takes a context's memory (OLLAMA_NUM_PARALLEL)."""
    keep_alive: Annotated[float, duration(1, 86400)] = DEFAULT.keep_alive_seconds
    """After a freeze: how long an unused model stays loaded (OLLAMA_KEEP_ALIVE)."""
    max_queue: Annotated[int, whole(16, 10000)] = DEFAULT.max_queue
    """After a freeze: how many requests may wait (OLLAMA_MAX_QUEUE). A tiny queue can block Ollama for
    good."""
    cache_ram: Annotated[int, size_within(0, 64 * GIB)] = DEFAULT.cache_ram_mib * MIB
    """After a freeze: the most that a model's prompt cache takes; without a bound it is 8 GiB a model
    (LLAMA_ARG_CACHE_RAM)."""
    memory: Annotated[int, size_within(256 * MIB, 1024 * GIB)] = DEFAULT.memory_bytes
    """After a freeze: the memory limit of Ollama's container or unit, or what fits the machine if that is
    less. It is never set below what is used."""
    cpus: Annotated[float, number(0.1, 1024)] = DEFAULT.cpus
    """After a freeze: how many cores Ollama may use."""

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        return without_ignored(data)

    @property
    def core(self) -> PlaybookPolicy:
        """The table as the brain knows it."""
        return PlaybookPolicy(
            enabled=self.enabled,
            runs_per_hour=self.runs_per_hour,
            quiet_seconds=self.quiet,
            max_loaded_models=self.max_loaded_models,
            num_parallel=self.num_parallel,
            keep_alive_seconds=self.keep_alive,
            max_queue=self.max_queue,
            cache_ram_mib=self.cache_ram // MIB,
            memory_bytes=self.memory,
            cpus=self.cpus,
            stuck_seconds=self.stuck_after,
            full_percent=round(self.full_above * 100, 6),
            full_seconds=self.full_for,
            young_seconds=self.young_for,
        )


class PlaybookTable(Table):
    """Recoveries that the guard carries out from beginning to end."""

    freeze: FreezeTable = FreezeTable()
