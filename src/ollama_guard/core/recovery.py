"""What is remembered of a freeze and of its recovery: symptoms, and where a playbook stands. Values only.

`diagnosis` judges the symptoms, `playbook` moves the position; `state` carries both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Playbook(StrEnum):
    """What can be carried out from its beginning to its end, by itself or by hand."""

    FREEZE = "freeze"
    MODELS_DONT_LOAD = "models_dont_load"


class Step(StrEnum):
    """Where a playbook stands; each but ``soft_cap`` is carried out by the action of the same name."""

    CONSTRAIN = "constrain"
    STOP = "stop"
    KILL_SERVER = "kill_server"
    QUARANTINE = "quarantine"
    START = "start"
    VERIFY = "verify"
    SOFT_CAP = "soft_cap"


@dataclass(frozen=True, slots=True)
class Target:
    """A model that a run hides, with the names that were known of it and what it needs at least."""

    blob: str
    names: tuple[str, ...]
    needs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands. It is written down before an action is posted, so that a new guard goes on from it.

    ``action_id`` is the action that carries the step out, None while there is none. ``attempts`` counts those
    of this step, over all lives of the guard; the next may come at ``not_before_at``. ``targets`` are still
    to be hidden. ``stopping`` says that Ollama may be down by our doing. ``failed`` is how the last try of
    this step went wrong, ``trouble`` what was given up, ``giving_up`` that Ollama is only to be started.
    """

    name: Playbook
    step: Step
    started_at: float
    reason: str
    runtime: str = ""
    action_id: int | None = None
    attempts: int = 0
    not_before_at: float = 0.0
    targets: tuple[Target, ...] = ()
    killed: bool = False
    stopping: bool = False
    giving_up: bool = False
    by_hand: bool = False
    failed: str = ""
    trouble: str = ""


class Ending(StrEnum):
    """How a run ended: ``partly`` when Ollama serves again though something went wrong."""

    RUNNING = "running"
    DONE = "done"
    PARTLY = "partly"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """One run, for the budget and for people; ``ended_at`` and ``text`` are empty while it goes on.

    ``unharmed``: it ended without having stopped anything.
    """

    name: Playbook
    started_at: float
    by_hand: bool = False
    ending: Ending = Ending.RUNNING
    ended_at: float | None = None
    text: str = ""
    unharmed: bool = False


@dataclass(frozen=True, slots=True)
class Constrained:
    """Ollama runs under the playbook's constraints, until they are released after quiet.

    ``container_bytes`` is what its container could hold before (None = no limit of its own).
    """

    runtime: str
    at: float
    container_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was written into Ollama's environment file at ``at``: nothing, a cap, or the playbook's lines.

    ``bound`` is how many models it lets be loaded together (0 = no line says so).
    """

    at: float
    bound: int = 0
    constrains: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """A runtime that the guard asked to stop, or killed, until Ollama's API has answered since then.

    ``since_at`` is when it was last asked to stop or to start; ``attempts`` counts the starts outside of a
    run, the next may come at ``not_before_at``. ``unknown_since_at`` is since when hands know of none.
    """

    runtime: str
    since_at: float
    attempts: int = 0
    not_before_at: float = 0.0
    unknown_since_at: float | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """A runner that went away without our doing; ``needs_bytes`` is the most that it is known to need."""

    blob: str
    names: tuple[str, ...]
    at: float
    needs_bytes: int
    held_bytes: int = 0
    domains: tuple[str, ...] = ()
    context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Still:
    """A process that has made no progress since ``since_at``, as far as was seen."""

    pid: int
    start_ticks: int
    since_at: float
    cpu_seconds: float = 0.0
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Symptoms:
    """What speaks for a freeze, over time.

    ``suspected_at`` is when the API fell silent or pressure became full; only from then on is progress
    looked at (``still``). ``full_since_at`` and ``thrash_since_at`` are when full pressure, and reading
    back what was just evicted, began, ``hurt_since_at`` when a runner began to wait for it, ``hurt_at``
    when one last did; ``refaults`` are the counts that this is told from, ``rising`` those that rose fast.
    ``oom_kills`` are the kernel's counts, ``oom_at`` when they rose, ``unclaimed`` the kills (domain, at)
    that have no dead runner yet; ``deaths`` are runners that died without our doing a moment ago,
    ``killed`` those that the kernel is now known to have killed. ``held`` is whether somebody held Ollama
    still, by a pause, a debugger or an upgrade. ``frozen`` is the diagnosis as a sentence ("" = not
    frozen), ``spared`` why what looks like a freeze is none.
    """

    suspected_at: float | None = None
    still: tuple[Still, ...] = ()
    full_since_at: float | None = None
    thrash_since_at: float | None = None
    refaults: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    rising: tuple[str, ...] = ()
    hurt_at: float | None = None
    hurt_since_at: float | None = None
    oom_kills: Mapping[str, int] = field(default_factory=dict)
    oom_at: tuple[float, ...] = ()
    unclaimed: tuple[tuple[str, float], ...] = ()
    deaths: tuple[Death, ...] = ()
    killed: tuple[Death, ...] = ()
    held: bool = False
    frozen: str = ""
    spared: str = ""
    server: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class HardCapState:
    """``wanted`` since ``wanted_since_at`` is what memory calls for (0 = no line)."""

    wanted: int = 0
    wanted_since_at: float | None = None
    judged_at: float | None = None
