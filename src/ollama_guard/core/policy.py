"""The owner's policy as one frozen value, with the built-in defaults.

`settings` compiles the TOML file into this; the sentinel reads it as JSON. Every default says its
unit, its reason and its evidence here and, in the owner's words, in ``config/ollama-guard.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ollama_guard.core.model import HOST, Level, Mode, Preference
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.tiers import Tier

MIB = 1024**2
GIB = 1024**3

NO_CEILING_BYTES = 2**50  # bytes (1 PiB): no machine reaches it, so a threshold with it has no ceiling

# The largest share of a domain that each threshold may take, whatever its floor says. Soft at a half,
# hard at a quarter, critical at an eighth is where the container floors stand on 512 MiB.
LARGEST_SHARE = {Level.SOFT: 1 / 2, Level.HARD: 1 / 4, Level.CRITICAL: 1 / 8}


class Authority(StrEnum):
    """What the owner lets the guard do by itself."""

    RUNNERS = "runners"
    SERVER = "server"


class Protect(StrEnum):
    """``always``: an ``omit`` model is not touched even at ``critical``."""

    BELOW_CRITICAL = "below_critical"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A share of a domain's capacity, held between a floor and a ceiling in bytes.

    A fixed size is a floor and a ceiling of that size, with the share 0.
    """

    ratio: float
    floor_bytes: int = 0
    ceiling_bytes: int = NO_CEILING_BYTES

    def bytes_of(self, capacity_bytes: int) -> int:
        """The threshold in bytes for a domain of this capacity."""
        return min(max(int(self.ratio * capacity_bytes), self.floor_bytes), self.ceiling_bytes)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Soft, hard and critical of one kind of domain; soft waits for ``grace_seconds``."""

    soft: Threshold
    hard: Threshold
    critical: Threshold
    grace_seconds: float = 10.0

    def bytes_of(self, level: Level, capacity_bytes: int) -> int:
        """The threshold in bytes below which a domain of this capacity is at ``level`` (not ``ok``).

        A floor may not eat a tiny domain, so each is held to its `LARGEST_SHARE`.
        """
        threshold = self.at(level).bytes_of(capacity_bytes)
        return min(threshold, int(capacity_bytes * LARGEST_SHARE[level]))

    def at(self, level: Level) -> Threshold:
        """The threshold of a level (not ``ok``)."""
        match level:
            case Level.SOFT:
                return self.soft
            case Level.HARD:
                return self.hard
            case Level.CRITICAL:
                return self.critical
            case _:
                raise ValueError("the level ok has no threshold")


HOST_THRESHOLDS = Thresholds(
    soft=Threshold(0.20, 600 * MIB, 4 * GIB),
    hard=Threshold(0.10, 300 * MIB, 2 * GIB),
    critical=Threshold(0.05, 150 * MIB, 1 * GIB),
)
CONTAINER_THRESHOLDS = Thresholds(
    soft=Threshold(0.15, 256 * MIB, 2 * GIB),
    hard=Threshold(0.08, 128 * MIB, 1 * GIB),
    critical=Threshold(0.04, 64 * MIB, 512 * MIB),
)


@dataclass(frozen=True, slots=True)
class ModelRule:
    """What the owner said about one model name."""

    preference: Preference = Preference.NONE
    protect: Protect = Protect.BELOW_CRITICAL


@dataclass(frozen=True, slots=True)
class OllamaPolicy:
    """Where Ollama is and what may be done to it.

    ``user`` and ``cgroup`` narrow which ``ollama serve`` processes are guarded ("" = any): a user
    name resolved to a uid by the compiler, and a cgroup path prefix. ``runtime`` and ``runtime_name`` say
    how it is run where that can't be found out, ``docker_host`` where its Docker listens ("" = as usual),
    ``models_folder`` is OLLAMA_MODELS on this host ("" = as found).
    """

    url: str = "http://127.0.0.1:11434"
    authority: Authority = Authority.RUNNERS
    mode: Mode = Mode.ENFORCE
    user_id: int | None = None
    cgroup: str = ""
    poll_seconds: float = 15.0
    unresponsive_after_seconds: float = 30.0
    request_timeout_seconds: float = 10.0
    runtime: RuntimeKind | None = None
    runtime_name: str = ""
    docker_host: str = ""
    models_folder: str = ""


@dataclass(frozen=True, slots=True)
class CapPolicy:
    """``soft_max`` bounds the models kept loaded, by unloading; None = as many as fit.

    ``hard`` is whether a cap is also written into Ollama's environment file as memory allows, ``hard_max``
    bounds it.
    """

    soft_max: int | None = None
    hard: bool = True
    hard_max: int | None = None


@dataclass(frozen=True, slots=True)
class PlaybookPolicy:
    """The freeze recovery: when it may run, and what Ollama is constrained to after it (design, section 6).

    ``max_queue`` is far from facts 2.5's deadlock and still turns a storm of clients away; ``cache_ram_mib``
    bounds the prompt cache that would else take 8 GiB (facts 3.3). Limits are never set below what is used.
    ``stuck_seconds`` is how long a process stands still before that counts (as long as the silence that comes
    first; a load is taken to stand still after 5 s). ``full_percent`` for ``full_seconds`` is a machine that
    hardly works any more: in a freeze on purpose it was 91. ``young_seconds`` is the design's.
    """

    enabled: bool = True
    runs_per_hour: int = 2
    quiet_seconds: float = 300.0
    max_loaded_models: int = 1
    num_parallel: int = 1
    keep_alive_seconds: float = 30.0
    max_queue: int = 64
    cache_ram_mib: int = 256
    memory_bytes: int = 3 * GIB
    cpus: float = 2.0
    stuck_seconds: float = 30.0
    full_percent: float = 30.0
    full_seconds: float = 30.0
    young_seconds: float = 120.0


class QuarantineAction(StrEnum):
    """What becomes of a model that can't fit."""

    HIDE = "hide"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class QuarantinePolicy:
    """Whether models that can't fit are hidden, and whether they come back by themselves."""

    enabled: bool = True
    action: QuarantineAction = QuarantineAction.HIDE
    restore: bool = False
    restore_after_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class NotifyPolicy:
    """One webhook that is told of what a person should know ("" = none); ``timeout_seconds`` a delivery."""

    webhook: str = ""
    timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class RecordPolicy:
    """The flight recorder: how much it may keep, and where ("" = ``traces`` in the state directory).

    4 MiB are five calm hours with three models, and replay in half a minute; 64 MiB are three calm days, or
    five hours under pressure (docs/configuration.md: what was measured). An SD card bears it for years.
    """

    enabled: bool = True
    max_total_bytes: int = 64 * MIB
    max_file_bytes: int = 4 * MIB
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that `decide` needs to know of the owner's will; ``tiers`` from small to large."""

    ollama: OllamaPolicy = field(default_factory=OllamaPolicy)
    host: Thresholds = HOST_THRESHOLDS
    container: Thresholds = CONTAINER_THRESHOLDS
    cap: CapPolicy = field(default_factory=CapPolicy)
    models: Mapping[str, ModelRule] = field(default_factory=dict)
    record: RecordPolicy = field(default_factory=RecordPolicy)
    playbook: PlaybookPolicy = field(default_factory=PlaybookPolicy)
    quarantine: QuarantinePolicy = field(default_factory=QuarantinePolicy)
    notify: NotifyPolicy = field(default_factory=NotifyPolicy)
    tiers: tuple[Tier, ...] = ()
    transition_seconds: float = 60.0
    min_reclaim_ratio: float = 0.03
    min_reclaim_floor_bytes: int = 128 * MIB
    post_action_delay_seconds: float = 1.0
    unload_prior_seconds: float = 0.5
    unload_prior_seconds_per_gib: float = 0.15
    kill_prior_seconds: float = 0.1
    kill_prior_seconds_per_gib: float = 0.1
    drain_prior_seconds: float = 30.0
    unload_deadline_seconds: float = 10.0
    drain_deadline_seconds: float = 120.0
    condemned_seconds: float = 600.0
    condemned_max_seconds: float = 86400.0
    kills_per_hour: int = 6
    runners_die_first: bool = True

    def without_secrets(self) -> Policy:
        """The same for other eyes: a trace may be shown to anybody, and a webhook's URL is often its key."""
        return replace(self, notify=NotifyPolicy())

    def thresholds_of(self, domain_name: str) -> Thresholds:
        """The thresholds that judge a domain: the host's own, else those of containers."""
        return self.host if domain_name == HOST else self.container

    def min_reclaim_bytes(self, capacity_bytes: int) -> int:
        """How far above a threshold relief aims, in bytes."""
        return max(int(self.min_reclaim_ratio * capacity_bytes), self.min_reclaim_floor_bytes)

    def rule_of(self, names: tuple[str, ...]) -> ModelRule:
        """The rule of a blob: the most protective that any of its names carries."""
        rules = [rule for name, rule in self.models.items() if spelled(name) in {spelled(n) for n in names}]
        if not rules:
            return ModelRule()
        order = list(Preference)
        always = any(rule.protect is Protect.ALWAYS for rule in rules)
        return ModelRule(
            preference=max((rule.preference for rule in rules), key=order.index),
            protect=Protect.ALWAYS if always else Protect.BELOW_CRITICAL,
        )


def spelled(name: str) -> str:
    """A model name as Ollama lists it: lower case, with its tag (facts 5.1)."""
    folded = name.lower()
    return folded if ":" in folded.rsplit("/", 1)[-1] else f"{folded}:latest"
