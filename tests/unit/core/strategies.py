"""What hypothesis feeds to the core: plausible small hosts that live through trouble, and sheer garbage."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger
from ollama_guard.core.model import (
    CONTAINER,
    HOST,
    ActionKind,
    ApiReading,
    CatalogueEntry,
    DomainReading,
    LoadedModel,
    Mode,
    Outcome,
    OutcomeKind,
    Preference,
    Request,
    RunnerReading,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.policy import (
    GIB,
    MIB,
    Authority,
    CapPolicy,
    ModelRule,
    OllamaPolicy,
    PlaybookPolicy,
    Policy,
    Protect,
)
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.core.runtime import RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.core.tiers import Tier
from ollama_guard.testing.scenario import World, blob_of
from ollama_guard.testing.served import Served

# ---- plausible worlds

NAMES = ("a", "b", "c", "d")

# No ladder, one of some of the models (the last is never installed), and one of two names of the same model.
ladders = st.sampled_from(
    [
        (),
        (Tier("light", "a"), Tier("default", "B:latest"), Tier("heavy", "c", memory_bytes=2 * GIB)),
        (Tier("light", "b", memory_bytes=64 * MIB), Tier("gone", "not-there"), Tier("twin", "a:latest")),
    ]
)
rules = st.builds(ModelRule, st.sampled_from(Preference), st.sampled_from(Protect))
policies = st.builds(
    Policy,
    ollama=st.builds(OllamaPolicy, mode=st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.OBSERVE])),
    cap=st.builds(CapPolicy, st.sampled_from([None, None, 1, 2])),
    tiers=ladders,
    models=st.dictionaries(st.sampled_from(NAMES), rules, max_size=2),
)
# An owner who lets the server be restarted, and a guard that is sure of a freeze within seconds.
_quick = PlaybookPolicy(stuck_seconds=1.0, full_seconds=1.0, young_seconds=5.0, quiet_seconds=5.0)
_server = OllamaPolicy(
    authority=Authority.SERVER, poll_seconds=1.0, unresponsive_after_seconds=2.0, mode=Mode.ENFORCE
)
enforcing = st.builds(
    Policy,
    ollama=st.sampled_from([OllamaPolicy(), _server]),
    cap=st.sampled_from([CapPolicy(), CapPolicy(), CapPolicy(1)]),
    playbook=st.sampled_from([PlaybookPolicy(), _quick]),
    tiers=ladders,
    models=st.dictionaries(st.sampled_from(NAMES), rules, max_size=2),
)


@dataclass(frozen=True)
class Step:
    """One thing that happens, then ``ticks`` ticks at the guard's own pace (or ``dt`` seconds apart).

    ``sixteenths`` of the machine is how much a load or another program takes: a size of its own would be
    nothing on one machine and more than there is on the other.
    """

    what: str
    name: str = "a"
    sixteenths: int = 0
    rate: int = 0
    ticks: int = 5
    dt: float | None = None


steps = st.builds(
    Step,
    what=st.sampled_from(
        [
            "load",
            "loaded",
            "busy",
            "idle",
            "hog",
            "hog",
            "relax",
            "silent",
            "answers",
            "die",
            "wait",
            "nap",
            "freeze",
            "thrash",
            "by_hand",
            "release",
        ]
    ),
    name=st.sampled_from(NAMES),
    sixteenths=st.integers(1, 18),
    rate=st.sampled_from([10, 50, 300, 1500]).map(lambda n: n * MIB),
    ticks=st.integers(1, 12),
    dt=st.sampled_from([None, None, 0.02, 0.5, 1.0]),
)


# How what is done to the server may go wrong, each once: see `Served`.
_SERVED = (ActionKind.CONSTRAIN, ActionKind.STOP, ActionKind.START, ActionKind.VERIFY)
_planned = st.tuples(st.sampled_from(_SERVED), st.sampled_from(["fail", "late", "lost", "hang"]))
faults = st.sampled_from([(), ((ActionKind.STOP, "fail"),)]) | st.tuples(_planned)


@dataclass(frozen=True)
class Tale:
    """A host, what is loaded on it as (name, size, busy), and what is to happen."""

    capacity: int
    limit: int | None
    policy: Policy
    loaded: tuple[tuple[str, int, bool], ...]
    steps: tuple[Step, ...]
    served: bool = False
    faults: tuple[tuple[ActionKind, str], ...] = ()

    def begin(self) -> World:
        """The host three seconds after the guard's start."""
        world = World(
            capacity=self.capacity,
            other=self.capacity // 8,
            limit=self.limit,
            policy=self.policy,
            served=Served(faults={kind: [fault] for kind, fault in self.faults}) if self.served else None,
        )
        for name, size, busy in self.loaded:
            world.load(name, size, busy=busy)
        world.play(3)
        return world


@st.composite
def tales(draw: st.DrawFn, policy: st.SearchStrategy[Policy] = policies) -> Tale:
    """A small host with up to three loaded models, and up to ten things that happen to it."""
    capacity = draw(st.sampled_from([512 * MIB, 4 * GIB, 15 * GIB]))
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=draw(st.integers(0, 2)), max_size=3))
    return Tale(
        capacity=capacity,
        limit=draw(st.sampled_from([None, None, capacity // 2])),
        policy=draw(policy),
        loaded=tuple((name, capacity // draw(st.integers(4, 12)), draw(st.booleans())) for name in names),
        steps=tuple(draw(st.lists(steps, min_size=1, max_size=10))),
        served=draw(st.booleans()),
        faults=draw(faults),
    )


def happen(world: World, step: Step) -> None:
    """Let the thing of one step happen."""
    model, size = world.model(step.name), world.capacity * step.sixteenths // 16
    match step.what:
        case "load" | "loaded" if model is None:
            world.load(step.name, size, loaded=step.what == "loaded")
        case "busy" | "idle" if model is not None:
            model.busy = step.what == "busy"
        case "hog":
            world.hog_rate, world.hog_target = step.rate, world.hog_taken + size
        case "relax":
            world.hog_taken = world.hog_target = 0
        case "silent":
            world.api_silent_since = world.now
        case "answers":
            world.api_silent_since = None
        case "die" if model is not None:
            model.gone_at = world.now
        case "nap":
            world.now += 3600.0
        case "freeze" if world.served is not None:
            world.served.ill, world.served.process_state = True, "T"
        case "thrash":
            world.psi_full, world.refaults = 80.0, (world.refaults or 0) + step.rate // 1024
        case "by_hand" | "release":
            world.requests = (Request(1, "playbook" if step.what == "by_hand" else "release", "freeze"),)
        case _:
            pass


# ---- garbage

_text = st.sampled_from(["", "a", "a:latest", "x\n\x1b[31my", "\u202egnp", "ü" * 40, "\ud800", "A" * 3000])
_ints = st.one_of(
    st.none(),
    st.integers(0, 16 * GIB),
    st.sampled_from([0, -1, 1, 2**63, 2**64 - 256 * 1024, 10**400, -(10**40)]),
)
_floats = st.one_of(
    st.none(),
    st.floats(0, 5000),
    st.sampled_from([0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e300, -1e300]),
)
_number = _floats.map(lambda value: 0.0 if value is None else value)
_blob = st.sampled_from([None, "", blob_of("a"), blob_of("b"), "sha256:", "\n"])
_pid = st.sampled_from([-1, 0, 1, 101, 102, 103, 2**40])
_ticks = st.sampled_from([-5, 0, 7, 8, 10**30])
_domain_names = st.sampled_from([HOST, HOST, CONTAINER, "gpu0", "", "x\ny"])

_domains = st.builds(
    DomainReading, _domain_names, _ints, _ints, _text,
    psi_some_avg10=_floats, psi_full_avg10=_floats, oom_kills=_ints, refaults=_ints, swap_free_bytes=_ints,
    cache_bytes=_ints, reread_bytes=_ints, path=_text,
)  # fmt: skip
_states = st.sampled_from(["S", "R", "D", "T", "t", "Z", "", "?", "\n"])
_runners = st.builds(
    RunnerReading, _pid, _ticks, _number, st.sampled_from([None, 100, -1]), st.booleans(), _text,
    port=_ints, major_faults=_ints,
    blob=_blob, blob_bytes=_ints, context_tokens=_ints, weights_mapped=st.sampled_from([None, True, False]),
    anon_bytes=_ints, shmem_bytes=_ints, file_bytes=_ints, swap_bytes=_ints, cpu_seconds=_floats,
    process_state=_states, parallel=_ints,
    domains=st.sampled_from([(HOST,), (HOST, CONTAINER), (), ("gpu0", "gpu0")]),
)  # fmt: skip
_loaded = st.builds(LoadedModel, _text, _blob, _ints, _ints, _floats, _ints)
_api = st.builds(
    ApiReading, _floats, _floats, _text, st.sampled_from([None, "", "0.33.0", "0.1", "x.y", "9" * 5000]),
    _floats, st.lists(_loaded, max_size=3).map(tuple), _floats, _text,
)  # fmt: skip
_catalogue = st.lists(
    st.builds(
        CatalogueEntry, _blob.map(str), st.lists(_text, max_size=3).map(tuple), _ints, _ints, _ints, _text
    ),
    max_size=3,
).map(tuple)
_requests = st.lists(
    st.builds(
        Request,
        st.integers(-5, 5),
        st.sampled_from(["unload", "pause", "resume", "", "\x00", "playbook", "release"]),
        _text,
        _floats,
    ),
    max_size=2,
).map(tuple)

_keys = st.builds(
    FootprintKey, _blob.map(str), _ints.map(lambda n: n or 0), _ints.map(lambda n: n or 0), st.booleans()
)
_rows = st.builds(
    Footprint, _keys, _ints, _ints, _ints, _ints, _ints, _floats, _floats,
    *[_ints.map(lambda n: n or 0)] * 3, *[_number] * 4,
)  # fmt: skip
_ledgers = st.builds(
    Ledger,
    _number,
    st.sampled_from([0.0, 1e6, 1e300, float("nan"), -1.0]),
    st.dictionaries(_blob.map(str), st.lists(_rows, max_size=2).map(tuple), max_size=2),
)

_runtimes = st.builds(
    RuntimeReading, st.sampled_from(RuntimeKind), _text, st.sampled_from(RuntimeState), _number,
    server_pid=st.sampled_from([None, 100, -1]), started_at=_floats,
    verbs=st.sampled_from([(), ("stop", "start")]), constrainable=st.booleans(), authority=st.booleans(),
    environment=st.dictionaries(st.just("OLLAMA_MAX_LOADED_MODELS"), _text | st.just("9" * 5000)),
)  # fmt: skip
_entries = st.builds(
    QuarantineEntry, _text, _text, _blob, st.sampled_from(Hidden), st.floats(0, 5000), st.none(),
    st.sampled_from([0, 1, 2**63]), _text, st.booleans(),
)  # fmt: skip
_stores = st.builds(
    StoreReading, _text, st.booleans(), st.lists(_entries, max_size=2, unique_by=lambda e: e.name).map(tuple),
    st.just(""), st.sampled_from([0.0, 5.0]), _text,
)  # fmt: skip

_servers = st.builds(
    ServerReading, _pid, _ticks, _ints, st.none() | _text, _text, _states, st.booleans(), st.booleans()
)
garbage = st.builds(
    Snapshot, _number, _number, st.lists(_domains, max_size=3).map(tuple),
    st.lists(_servers, max_size=2).map(tuple),
    st.lists(_runners, max_size=3).map(tuple), _api, _catalogue, _requests, st.booleans(), _text,
    st.sampled_from([(), (), ("whose a process is can't be read\n",)]), _ledgers,
    st.lists(_runtimes, max_size=2).map(tuple), _stores,
)  # fmt: skip
outcomes = st.builds(
    Outcome, st.integers(0, 6), st.sampled_from(OutcomeKind), _number, _ints.map(lambda n: n or 0), _text
)
