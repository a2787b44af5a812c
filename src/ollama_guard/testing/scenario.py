"""A small host in memory: domains, runners, a server and an API, to tell stories to the core.

`World` holds what is; `World.snapshot()` is what the sensors would read; `World.play()` lets `decide`
run over it with a stepped clock and carries its actions out, as the two processes would, with the
delays that real ones have. No I/O, no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.footprint import Ledger
from ollama_guard.core.ledger import taught
from ollama_guard.core.lessons import lessons
from ollama_guard.core.model import (
    CONTAINER,
    HOST,
    Action,
    ActionKind,
    ApiReading,
    CatalogueEntry,
    Decision,
    DomainReading,
    LoadedModel,
    Outcome,
    OutcomeKind,
    Request,
    Rung,
    RunnerReading,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.outcomes import STILL_THERE
from ollama_guard.core.pace import Glance, look_seconds, resting
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.core.state import State
from ollama_guard.testing.served import FIRST_PID, SERVER_ACTIONS, Served

SERVER_PID = FIRST_PID
SERVER = ServerReading(SERVER_PID, 1, 0, "/ollama", "argv says serve")
# Processes in these states do nothing: waiting in the kernel, stopped.
STUCK_STATES = ("D", "T", "t")
# Seconds between two glances of a sentinel that rests with a lot of memory to spare.
GLANCE_SECONDS = 0.25


def blob_of(name: str) -> str:
    """A stable blob digest for a made-up model."""
    return "sha256:" + (name.encode().hex() * 64)[:64]


@dataclass(slots=True)
class Model:
    """A made-up model process: ``taken`` of ``size`` bytes are in memory; it loads at ``rate`` bytes/s.

    ``foreseen`` is what its blob's size says where that is not ``size`` (a cache that is touched lazily);
    ``inside`` False puts it outside the limited container; ``dies`` False makes it hang in the kernel; an
    ``orphan`` has lost its server, and the API does not reach it.
    """

    name: str
    size: int
    pid: int
    born_at: float
    taken: int
    rate: int = 1 * GIB
    aliases: tuple[str, ...] = ()
    busy: bool = False
    cpu_seconds: float = 0.0
    honours_unload: bool = True
    foreseen: int | None = None
    known: bool = True
    inside: bool = True
    dies: bool = True
    swapped: int = 0
    process_state: str = "S"
    major_faults: int = 0
    gone_at: float | None = None
    expires_at: float | None = None
    context: int = 4096
    orphan: bool = False

    @property
    def loading(self) -> bool:
        """Whether its load is still in flight."""
        return self.taken < self.size


@dataclass
class World:
    """A host of ``capacity`` bytes on which ``other`` bytes are used by everything but Ollama.

    ``threaded``: a killed runner is listed no more while its memory is still to come back. ``api_error`` is
    how the API's silence looks to hands, ``neighbours_kills`` are OOM kills in cgroups of others, which count
    on the host too. ``reread`` bytes of the container's page cache count as used, since they are read back.
    """

    capacity: int = 4 * GIB
    other: int = 1 * GIB
    limit: int | None = None
    policy: Policy = field(default_factory=Policy)
    now: float = 1000.0
    models: list[Model] = field(default_factory=list)
    state: State = field(default_factory=State, repr=False)
    hog_rate: int = 0
    hog_target: int = 0
    hog_taken: int = 0
    api_silent_since: float | None = None
    api_error: str = "timeout"
    api_never_answered: bool = False
    hands_alive: bool = True
    unload_seconds: float = 0.15
    kill_seconds: float = 0.1
    threaded: bool = False
    served: Served | None = None
    psi_full: float | None = None
    refaults: int | None = None
    psi_full_inside: float | None = None
    refaults_inside: int | None = None
    reread: int = 0
    decisions: list[Decision] = field(default_factory=list, repr=False)
    outcomes: list[tuple[Action, Outcome]] = field(default_factory=list, repr=False)
    requests: tuple[Request, ...] = ()
    oom_kills: int = 0
    neighbours_kills: int = 0
    catalogue: dict[str, CatalogueEntry] = field(default_factory=dict, repr=False)
    ledger: Ledger = field(default_factory=Ledger, repr=False)
    _learned: State = field(default_factory=State, repr=False)
    _unheard: set[int] = field(default_factory=set, repr=False)

    def load(
        self, name: str, size: int, *, loaded: bool = True, busy: bool = False, aliases: tuple[str, ...] = ()
    ) -> Model:
        """Bring up a runner; ``loaded`` False begins a load in flight."""
        pid = SERVER_PID + 1 + len(self.models) + len(self.outcomes)
        age = 300.0 if loaded else 0.0
        model = Model(name, size, pid, self.now - age, size if loaded else 0, aliases=aliases, busy=busy)
        self.models.append(model)
        self.catalogue[name] = CatalogueEntry(blob_of(name), (name, *aliases), size)
        return model

    def install(self, name: str, size: int) -> None:
        """Have a model on the shelf that is not loaded."""
        self.catalogue[name] = CatalogueEntry(blob_of(name), (name,), size)

    def model(self, name: str) -> Model | None:
        """The live model of a name."""
        return next((m for m in self.models if m.name == name), None)

    @property
    def used(self) -> int:
        """Bytes in use on the host."""
        return self.other + self.hog_taken + sum(m.taken for m in self.models)

    @property
    def used_inside(self) -> int:
        """Bytes in use in the limited container, where the hog lives too."""
        return self.hog_taken + sum(m.taken for m in self.models if m.inside)

    def snapshot(self) -> Snapshot:
        """What the sensors and hands would say now."""
        available = max(0, self.capacity - self.used)
        domains = [
            DomainReading(
                HOST, self.capacity, available, psi_full_avg10=self.psi_full,
                oom_kills=self.oom_kills + self.neighbours_kills, refaults=self.refaults,
            )
        ]  # fmt: skip
        if self.limit is not None:
            inside = self.used_inside
            left = min(available, max(0, self.limit - inside))
            reread = min(left, self.reread)
            domains.append(
                DomainReading(
                    CONTAINER, self.limit, left - reread, psi_full_avg10=self.psi_full_inside,
                    oom_kills=self.oom_kills, refaults=self.refaults_inside, reread_bytes=reread or None,
                )
            )  # fmt: skip
        names = tuple(domain.name for domain in domains)
        answered = self.now if self.api_silent_since is None else self.api_silent_since
        served = self.served
        return Snapshot(
            now=self.now,
            wall=1.7e9 + self.now,
            domains=tuple(domains),
            servers=served.servers() if served else (SERVER,),
            runners=tuple(
                self._runner(model, names if model.inside else (HOST,))
                for model in self.models
                if not (self.threaded and model.gone_at is not None)
            ),
            api=ApiReading(
                probed_at=self.now,
                answered_at=None if self.api_never_answered else answered,
                error=self.api_error if self.api_silent_since is not None else "",
                version="0.33.0",
                loaded=tuple(self._listed(m) for m in self.models if not m.loading),
                loaded_at=answered,
            ),
            catalogue=tuple(self.catalogue.values()),
            requests=self.requests,
            hands_alive=self.hands_alive,
            footprints=self.ledger,
            runtimes=served.runtimes(self.now) if served else (),
            store=served.store(self.now) if served else StoreReading(),
        )

    def _runner(self, model: Model, domains: tuple[str, ...]) -> RunnerReading:
        return RunnerReading(
            pid=model.pid,
            start_ticks=int(model.born_at * 100),
            born_at=model.born_at,
            server_pid=None if model.orphan else SERVER_PID,
            proven=True,
            proof="child of the server",
            blob=blob_of(model.name) if model.known else None,
            blob_bytes=(model.foreseen or model.size) if model.known else None,
            context_tokens=model.context,
            parallel=1,
            anon_bytes=model.taken,
            shmem_bytes=0,
            file_bytes=10 * MIB,
            swap_bytes=model.swapped,
            cpu_seconds=model.cpu_seconds,
            major_faults=model.major_faults,
            process_state=model.process_state,
            domains=domains,
        )

    def _listed(self, model: Model) -> LoadedModel:
        left = 300.0 if model.expires_at is None else model.expires_at - self.now
        return LoadedModel(model.name, blob_of(model.name), model.size, 0, left)

    def pass_time(self, seconds: float) -> None:
        """Let time go by: loads and the hog grow, busy runners burn CPU, the kernel kills at zero."""
        self.now += seconds
        self.hog_taken = min(self.hog_target, self.hog_taken + int(self.hog_rate * seconds))
        for model in self.models:
            if model.process_state in STUCK_STATES:
                continue
            if model.loading:
                model.taken = min(model.size, model.taken + int(model.rate * seconds))
                model.cpu_seconds += seconds
            elif model.busy:
                model.cpu_seconds += seconds
        self.models = [m for m in self.models if m.gone_at is None or m.gone_at > self.now]
        over_limit = self.limit is not None and self.used_inside > self.limit
        if self.used > self.capacity or over_limit:
            self.oom_kills += 1
            self.hog_taken = self.hog_target = 0

    def tick(self) -> Decision:
        """One decision, its actions begun."""
        snapshot = self.snapshot()
        self.state, decision = decide(self.policy, self.state, snapshot)
        learnt = lessons(self._learned, self.state, snapshot)
        self._learned, self.requests = self.state, ()
        if learnt:
            self.ledger, _ = taught(self.ledger, learnt, self.now, snapshot.wall)
        self.decisions.append(decision)
        if not decision.would:
            for action in decision.actions:
                self._begin(action)
        return decision

    def _begin(self, action: Action) -> None:
        if action.kind in SERVER_ACTIONS:
            return
        victim = next((m for m in self.models if m.pid == action.pid), None)
        if victim is None:
            return
        if action.kind is ActionKind.KILL and victim.dies:
            victim.gone_at = self.now + self.kill_seconds
        elif (
            action.kind is ActionKind.UNLOAD
            and victim.honours_unload
            and not victim.busy
            and not victim.loading
        ):
            victim.gone_at = self.now + self.unload_seconds

    def settle(self) -> None:
        """Report the outcomes of actions whose victims are gone, or whose deadline has passed."""
        pids = {m.pid for m in self.models}
        for action in self.state.in_flight:
            if self.served is not None and action.kind in SERVER_ACTIONS:
                outcome = self._serve(self.served, action)
                if outcome is None:
                    continue
            elif action.pid is not None and action.pid not in pids:
                outcome = Outcome(action.id, OutcomeKind.DONE, self.now, action.expected_bytes)
            elif self.now > action.deadline_at:
                stays = f"{STILL_THERE} after SIGKILL" if action.kind is ActionKind.KILL else "not honoured"
                outcome = Outcome(action.id, OutcomeKind.FAILED, self.now, 0, stays)
            else:
                continue
            self.outcomes.append((action, outcome))
            self.state = absorb(self.policy, self.state, outcome)

    def _serve(self, served: Served, action: Action) -> Outcome | None:
        """How an action on the server ended, once it has had its time; a stop ends every runner with it."""
        age = self.now - self.state.issued_at.get(str(action.id), self.now)
        if age < served.seconds or action.id in self._unheard:
            return None
        outcome = served.end(action, self.now)
        if outcome is None:
            self._unheard.add(action.id)
        self.react()
        return outcome

    def react(self) -> None:
        """What the server's state means for its API and its runners."""
        if self.served is None:
            return
        if not self.served.running:
            self.models = []
        silent = self.served.ill or not self.served.running
        if silent and self.api_silent_since is None:
            self.api_silent_since = self.now
        elif not silent:
            self.api_silent_since = None

    def play(self, seconds: float, *, until: Callable[[World], bool] | None = None) -> None:
        """Run the guard for a while, ticking as it plans to; ``until`` ends it early."""
        end = self.now + seconds
        self.react()
        while self.now < end and not (until and until(self)):
            self.settle()
            self.tick()
            self._sleep(min(self.state.planned_delay_seconds, end - self.now + 1e-6))
        self.settle()

    def _sleep(self, seconds: float) -> None:
        """Let time go by until the next tick is due: after so many seconds, or when a glance says so."""
        end, last = self.now + seconds, self.snapshot()
        while (left := end - self.now) > 0:
            if not resting(self.state):
                self.pass_time(left)
                return
            pause = look_seconds(self.policy, last, Glance.of(self.snapshot()))
            if not pause:
                return
            self.pass_time(min(pause, GLANCE_SECONDS, left))

    def acted(self) -> list[tuple[Rung, tuple[str, ...]]]:
        """Every action begun, as (rung, names), in order."""
        return [(d.rung, action.names) for d in self.decisions for action in d.actions if not d.would]

    def restart(self) -> None:
        """The guard dies and starts again: only the durable part of its state is left."""
        self.state = State(durable=self.state.durable)

    def with_policy(self, **changes: object) -> World:
        """The same world under a changed policy."""
        self.policy = replace(self.policy, **changes)  # type: ignore[arg-type]  # names checked by dataclasses
        return self
