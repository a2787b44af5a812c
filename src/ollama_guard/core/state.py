"""What the guard remembers between ticks; `decide` returns the next one, nothing mutates it.

`Durable` is the part that must survive a kill -9 of the guard (it lives in the state map under the
runtime directory); everything else is learned again within seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ollama_guard.core.footprint import FootprintKey
from ollama_guard.core.model import Action, Condition, Decision, Level, Outcome
from ollama_guard.core.recovery import Constrained, HardCapState, Position, Run, Stopped, Symptoms, Written
from ollama_guard.core.tiers import TierState


@dataclass(frozen=True, slots=True)
class Condemned:
    """A blob that had to be aborted or killed twice in ten minutes: killed at birth until ``until_at``.

    ``needs_bytes`` is what its load is known to need with ``context_tokens``, the smallest context of those
    that had to go (0 = not told); ``fits_since_at`` when that began to fit.
    """

    blob: str
    names: tuple[str, ...]
    since_at: float
    until_at: float
    term_seconds: float
    needs_bytes: int
    kills: int = 0
    last_asked_at: float = 0.0
    fits_since_at: float | None = None
    context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Strike:
    """One abort or kill of a blob's runner, remembered for ten minutes; what it needs as in `Condemned`."""

    blob: str
    at: float
    needs_bytes: int = 0
    context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Durable:
    """Survives the guard's own death: pause, condemned blobs, budgets, the next action's id.

    ``fruitless_kills`` are the times of kills that freed nothing (the budget that bounds them).
    ``playbook`` is where the run that goes on stands, ``runs`` are the last ones. ``hard_cap`` is the cap
    that stands in Ollama's environment file (0 = none), ``written`` what was written there and when, as far
    back as the server that runs may have read it. ``released`` is that a person had all of that
    undone. ``spared`` are names that a person brought back, so that they are not hidden again.
    ``stopped`` is what the guard stopped and has not seen answer since; it outlives the run. ``restarts`` are
    those tried since the constraints were lifted, so that Ollama runs without them. ``refused`` are the tiers
    that memory does not allow, so that a new guard waits for its quiet as well.
    """

    version: int = 1
    pause_until_at: float | None = None
    condemned: tuple[Condemned, ...] = ()
    strikes: tuple[Strike, ...] = ()
    fruitless_kills: tuple[float, ...] = ()
    next_action_id: int = 1
    playbook: Position | None = None
    runs: tuple[Run, ...] = ()
    constrained: Constrained | None = None
    hard_cap: int = 0
    written: tuple[Written, ...] = ()
    released: bool = False
    spared: tuple[str, ...] = ()
    stopped: Stopped | None = None
    restarts: int = 0
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DomainState:
    """One domain's level and the facts behind it.

    ``samples`` are (at, available_bytes) of the last second, oldest first, for the slope; ``committed``
    the same less what the loads in flight (``loads``, by pid and start time) will still take.
    ``level`` is what people see: it rises at once and falls after a transition. ``raw`` is what the
    thresholds say now; ``urgent`` is what may be acted on now: raw after soft's grace, or what the
    forecast counts as crossed. ``below_since_at`` is when available first fell below soft (grace);
    ``calm_since_at`` when ``urgent`` last fell below ``level``, ``calm_peak`` its highest since then.
    """

    level: Level = Level.OK
    since_at: float = 0.0
    below_since_at: float | None = None
    calm_since_at: float | None = None
    calm_peak: Level = Level.OK
    raw: Level = Level.OK
    urgent: Level = Level.OK
    samples: tuple[tuple[float, int], ...] = ()
    committed: tuple[tuple[float, int], ...] = ()
    loads: tuple[tuple[int, int], ...] = ()
    slope_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class RunnerState:
    """One runner's recent past, keyed by (pid, start_ticks).

    ``cpu`` are (at, cpu_seconds) samples of the last seconds. ``grew_at`` is when ``peak_bytes`` last
    rose. ``loaded_at`` is when it was first known to have finished loading. ``busy_since_at`` bounds
    the present busy spell; ``spell_seconds`` is the last finished one. ``last_used_at`` is when it was
    last busy. ``footprint`` is its row of the ledger; ``measured_at`` is when its size had settled after a
    load that was seen from its birth on. ``needs_bytes`` is what its command line says that it takes,
    ``domains`` where it counts. ``expires_at`` is when Ollama ends it unless it is asked, as last listed.
    """

    pid: int
    start_ticks: int
    first_seen_at: float
    cpu: tuple[tuple[float, float], ...] = ()
    peak_bytes: int = 0
    grew_at: float = 0.0
    loaded_at: float | None = None
    busy_since_at: float | None = None
    spell_seconds: float | None = None
    last_used_at: float = 0.0
    blob: str | None = None
    footprint: FootprintKey | None = None
    measured_at: float | None = None
    needs_bytes: int | None = None
    domains: tuple[str, ...] = ()
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class ConditionState:
    """A condition that holds, since when, last seen true, and its sentence."""

    condition: Condition
    since_at: float
    last_true_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Rates:
    """What relief was measured to take here, as a share of its prior (1.0 = as the prior says)."""

    unload: float = 1.0
    kill: float = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """The brain's whole memory.

    ``stalled_seconds`` is the gap before this tick if it was a stall or suspend, ``woke_at`` when the
    last such gap ended. ``unhonoured`` maps a blob to the time until which the API is not asked again.
    ``calm_since_at`` is since when nothing has been wrong at all, ``idle_since_at`` since when Ollama has had
    nothing to do, ``would_at`` when each thing that needs the owner's word was last told of,
    ``fits_since_at`` since when each hidden name would fit again. ``stuck`` are the processes (pid, start
    time) that outlived a SIGKILL. ``tiers`` is the user's ladder, small to large, as judged at
    ``tiers_judged_at``.
    """

    durable: Durable = field(default_factory=Durable)
    started_at: float | None = None
    last_tick_at: float | None = None
    planned_delay_seconds: float = 1.0
    domains: Mapping[str, DomainState] = field(default_factory=dict)
    runners: tuple[RunnerState, ...] = ()
    conditions: tuple[ConditionState, ...] = ()
    in_flight: tuple[Action, ...] = ()
    issued_at: Mapping[str, float] = field(default_factory=dict)
    finished: tuple[tuple[Action, Outcome], ...] = ()
    unhonoured: Mapping[str, float] = field(default_factory=dict)
    soft_cap: int | None = None
    soft_cap_quiet_since_at: float | None = None
    servers: tuple[tuple[int, int], ...] = ()
    gone_at: Mapping[str, float] = field(default_factory=dict)
    purged_at: Mapping[str, float] = field(default_factory=dict)
    stalled_seconds: float = 0.0
    woke_at: float | None = None
    hold_told_at: float = 0.0
    rates: Rates = field(default_factory=Rates)
    last_decision: Decision | None = None
    level: Level = Level.OK
    level_since_at: float = 0.0
    symptoms: Symptoms = field(default_factory=Symptoms)
    hard_cap: HardCapState = field(default_factory=HardCapState)
    calm_since_at: float | None = None
    idle_since_at: float | None = None
    would_at: Mapping[str, float] = field(default_factory=dict)
    fits_since_at: Mapping[str, float] = field(default_factory=dict)
    stuck: tuple[tuple[int, int], ...] = ()
    tiers: tuple[TierState, ...] = ()
    tiers_judged_at: float | None = None
