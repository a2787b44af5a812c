"""The values that everything speaks in: readings, snapshots, actions, decisions, outcomes.

All times named ``at`` or ``*_at`` are CLOCK_BOOTTIME seconds (monotonic, counting suspend), so both
processes and a restarted guard share one time base. ``wall`` is epoch seconds, for display only.
A reading that could not be taken is ``None`` and says why beside it; it is never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from ollama_guard.core.footprint import FootprintKey, Ledger
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.core.runtime import Limits, RuntimeReading

HOST = "host"
CONTAINER = "container"


class Level(IntEnum):
    """How short memory is, per domain; ordered, so that the worst of several is ``max``."""

    OK = 0
    SOFT = 1
    HARD = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        """The level as the contract spells it: ``ok``, ``soft``, ``hard``, ``critical``."""
        return self.name.lower()


class Mode(StrEnum):
    """What the guard may do with its decisions."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    PAUSED = "paused"


class Preference(StrEnum):
    """How willingly a model is given up (the vocabulary of systemd's ManagedOOMPreference)."""

    NONE = "none"
    AVOID = "avoid"
    OMIT = "omit"


class Activity(StrEnum):
    """What a runner is doing, as the contract's ``models[].state``."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"


class Condition(StrEnum):
    """What is wrong, held for the policy's transition period so that it can't flap."""

    MEMORY_PRESSURE = "MemoryPressure"
    OLLAMA_UNRESPONSIVE = "OllamaUnresponsive"
    FROZEN = "Frozen"
    BLIND = "Blind"


class Rung(StrEnum):
    """The ladder, from no harm to most harm."""

    NONE = "none"
    HOLD = "hold"
    CAP = "cap"
    KEEP_ALIVE = "keep_alive"
    RECLAIM = "reclaim"
    UNLOAD_IDLE = "unload_idle"
    ABORT_LOAD = "abort_load"
    DRAIN_BUSY = "drain_busy"
    KILL_RUNNER = "kill_runner"
    PLAYBOOK = "playbook"


class ActionKind(StrEnum):
    """Who carries an action out: the sentinel kills, ``hands`` do the rest.

    From ``constrain`` on they act on the server itself and need the owner's word (`Authority`).
    """

    UNLOAD = "unload"
    KILL = "kill"
    PURGE_GHOST = "purge_ghost"
    RECLAIM = "reclaim"
    CONSTRAIN = "constrain"
    STOP = "stop"
    KILL_SERVER = "kill_server"
    QUARANTINE = "quarantine"
    START = "start"
    VERIFY = "verify"
    RESTORE = "restore"
    RELEASE = "release"
    RESTART = "restart"


class OutcomeKind(StrEnum):
    """How an action ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class DomainReading:
    """One place with finite memory, read once.

    ``available_bytes`` is None when it could not be read or was absurd; ``reason`` says why.
    ``psi_*`` are percentages (0..100) over 10 s. ``oom_kills`` is the kernel's running count.
    ``refaults`` counts pages (a running total), from which thrash is seen. ``cache_bytes`` is page cache that
    counts as used while some of it is read back, where the kernel could be asked to take it (None: it can't).
    ``reread_bytes`` would be available besides, were nothing read back (None: nothing is); see `pagecache`.
    """

    name: str
    capacity_bytes: int | None
    available_bytes: int | None
    reason: str = ""
    psi_some_avg10: float | None = None
    psi_full_avg10: float | None = None
    oom_kills: int | None = None
    refaults: int | None = None
    swap_free_bytes: int | None = None
    path: str = ""
    cache_bytes: int | None = None
    reread_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunnerReading:
    """One model process that is provably Ollama's, or a candidate that is not proven (``proven`` False).

    ``blob`` is ``sha256:<hex>`` of the model layer, None until the argv helper has answered.
    ``context_tokens`` is the total over all ``parallel`` slots (num_ctx x parallel). ``weights_mapped`` is
    whether the weights are file-backed, hence reclaimable (argv without ``--no-mmap`` / ``--load-mode
    none``, facts 3.2). ``cache_type`` is how it keeps its KV cache ("" = f16). ``domains`` names every domain
    whose memory this process counts in.
    """

    pid: int
    start_ticks: int
    born_at: float
    server_pid: int | None
    proven: bool
    proof: str
    blob: str | None = None
    blob_bytes: int | None = None
    context_tokens: int | None = None
    port: int | None = None
    weights_mapped: bool | None = None
    anon_bytes: int | None = None
    shmem_bytes: int | None = None
    file_bytes: int | None = None
    swap_bytes: int | None = None
    cpu_seconds: float | None = None
    major_faults: int | None = None
    process_state: str = "?"
    domains: tuple[str, ...] = (HOST,)
    parallel: int | None = None
    cache_type: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Identity that survives PID reuse: (pid, start time in clock ticks since boot)."""
        return (self.pid, self.start_ticks)

    @property
    def freeable_bytes(self) -> int:
        """What its death gives back for certain: anonymous + shared + swapped bytes."""
        return (self.anon_bytes or 0) + (self.shmem_bytes or 0) + (self.swap_bytes or 0)

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory now: anonymous + shared + file-backed."""
        return (self.anon_bytes or 0) + (self.shmem_bytes or 0) + (self.file_bytes or 0)


@dataclass(frozen=True, slots=True)
class ServerReading:
    """One ``ollama serve`` process; ``traced``: a debugger is attached, ``frozen``: its cgroup is."""

    pid: int
    start_ticks: int
    uid: int | None
    cgroup: str | None
    proof: str
    process_state: str = "?"
    traced: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One entry of ``/api/ps``, its names already resolved to the blob that it runs.

    ``expires_in_seconds`` is relative to when the answer was asked for; negative is normal for a busy model
    (facts 1.4); None for an unparsable time; ``inf`` is written as a very large number.
    """

    name: str
    blob: str | None
    size_bytes: int | None
    vram_bytes: int | None
    expires_in_seconds: float | None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One installed local model blob and every name that it goes by.

    ``embeds``: it can do nothing else, so it answers nobody.
    ``kv_bytes_per_token`` is what each further token adds for sure, as f16 (facts 3.4); None if unknown.
    """

    blob: str
    names: tuple[str, ...]
    size_bytes: int | None
    kv_bytes_per_token: int | None = None
    training_context: int | None = None
    models_dir: str = ""
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class ApiReading:
    """The newest that ``hands`` know of Ollama's HTTP API.

    ``answered_at`` is the last time that any probe was answered; ``loaded_at`` the time of the
    ``/api/ps`` answer in ``loaded`` (when its request was *sent*, so that later births are not in it).
    """

    probed_at: float | None = None
    answered_at: float | None = None
    error: str = ""
    version: str | None = None
    latency_seconds: float | None = None
    loaded: tuple[LoadedModel, ...] = ()
    loaded_at: float | None = None
    loaded_error: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A person's wish, by way of ``hands``: ``unload`` (``model``, ``*`` for all), ``pause``, ``resume``."""

    id: int
    verb: str
    model: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All readings of one tick.

    ``blind`` holds a sentence for each thing that must be known before acting and can't be read now:
    the host's memory, or whose a process is that would have to be Ollama's server or runner.
    ``footprints`` is what earlier runners were measured to cost. ``runtimes`` is how each server is run, and
    ``store`` where the models lie, as hands last told.
    """

    now: float
    wall: float
    domains: tuple[DomainReading, ...] = ()
    servers: tuple[ServerReading, ...] = ()
    runners: tuple[RunnerReading, ...] = ()
    api: ApiReading = field(default_factory=ApiReading)
    catalogue: tuple[CatalogueEntry, ...] = ()
    requests: tuple[Request, ...] = ()
    hands_alive: bool = True
    hands_reason: str = ""
    blind: tuple[str, ...] = ()
    footprints: Ledger = field(default_factory=Ledger)
    runtimes: tuple[RuntimeReading, ...] = ()
    store: StoreReading = field(default_factory=StoreReading)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, with a deadline.

    ``model`` is a name to say to the API (any alias acts on the blob); ``names`` are all aliases.
    ``expected_bytes`` should come back by ``deadline_at`` (boottime seconds); ``needs_bytes`` is the
    least that the blob is known to need when loaded. ``footprint`` is the victim's row of the ledger,
    ``measured_seconds`` how long unloads of it took (None: never measured); with ``cuts_answer`` somebody is
    being answered; an ``orphan`` has lost its server. On a server: ``runtime`` is its name, ``environment``
    all lines that its environment file is to have (nothing else stays in it), ``limits`` those of its cgroup.
    ``cgroup`` is the directory whose page cache is reclaimed.
    """

    id: int
    kind: ActionKind
    rung: Rung
    deadline_at: float
    blob: str | None = None
    model: str | None = None
    names: tuple[str, ...] = ()
    pid: int | None = None
    start_ticks: int | None = None
    expected_bytes: int = 0
    needs_bytes: int = 0
    domain: str = HOST
    reason: str = ""
    request_id: int | None = None
    footprint: FootprintKey | None = None
    measured_seconds: float | None = None
    cuts_answer: bool = False
    orphan: bool = False
    runtime: str = ""
    cgroup: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    limits: Limits | None = None

    @property
    def key(self) -> tuple[int, int] | None:
        """The runner that this is about, as `RunnerReading.key`, or None."""
        return None if self.pid is None or self.start_ticks is None else (self.pid, self.start_ticks)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one action ended: ``freed_bytes`` came back (the victim's, not the domain's), or why not."""

    action_id: int
    kind: OutcomeKind
    at: float
    freed_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The immediate answer to a person's request (one that needed no action, or was refused)."""

    request_id: int
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tick decided: the rung, the actions, and one sentence with numbers.

    ``actions`` with a ``request_id`` are answered when their outcome is known; ``replies`` at once.

    ``would`` is True when the owner's word (observe, paused) keeps the actions from being done:
    then ``actions`` is what would have been done. ``gave_up``: a budget is used up, and a person should look.
    """

    at: float
    wall: float
    level: Level
    rung: Rung
    reason: str
    actions: tuple[Action, ...] = ()
    would: bool = False
    disruptive: bool = False
    domain: str = ""
    replies: tuple[Reply, ...] = ()
    gave_up: bool = False

    @property
    def needs_second_look(self) -> bool:
        """Whether it stands only if a second look agrees: what harms, and what nothing presses for."""
        return self.disruptive or self.rung is Rung.KEEP_ALIVE

    def same_as(self, other: Decision) -> bool:
        """Whether a second look came to the same answer: same rung on the same targets."""
        return (
            self.rung is other.rung
            and self.would is other.would
            and {(a.kind, a.blob, a.key) for a in self.actions}
            == {(a.kind, a.blob, a.key) for a in other.actions}
        )
