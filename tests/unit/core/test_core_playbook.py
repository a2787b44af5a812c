"""The freeze playbook, interrupted at every point: same end, Ollama never left stopped, bounded steps."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace

import pytest

from ollama_guard.core import playbook
from ollama_guard.core.codec import from_plain, to_plain
from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.model import ActionKind, Mode, Outcome, OutcomeKind, Rung
from ollama_guard.core.policy import GIB, MIB, Authority, OllamaPolicy, PlaybookPolicy, Policy
from ollama_guard.core.recovery import Ending, Playbook, Run, Step
from ollama_guard.core.runners import census
from ollama_guard.core.runtime import RuntimeState
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable, State
from ollama_guard.testing.scenario import World
from ollama_guard.testing.served import Served

WHOLE = [
    ActionKind.CONSTRAIN,
    ActionKind.STOP,
    ActionKind.QUARANTINE,
    ActionKind.QUARANTINE,
    ActionKind.START,
    ActionKind.VERIFY,
]
# Where a guard can die around each post: before anything is written, before it is posted, before and after it
# took effect, before and after its outcome is written.
POINTS = ("decided", "stored", "posted", "effect", "absorbed", "kept")
# How an action can end besides well, as `Served.faults` says.
FAULTS = ("fail", "late", "lost", "hang")
STEPS = (*dict.fromkeys(WHOLE), ActionKind.KILL_SERVER)


def frozen_world() -> World:
    """A frozen server of 4 GiB with a model that fits and two that never can."""
    world = World(
        policy=Policy(ollama=OllamaPolicy(authority=Authority.SERVER)),
        served=Served(ill=True, process_state="T"),
    )
    for name, size in (("tiny", 300 * MIB), ("huge", 8 * GIB), ("vast", 9 * GIB)):
        world.load(name, size)
    world.models = []
    return world


@dataclass
class Guard:
    """A guard that can die at chosen points: (number of the post, point) for each death."""

    world: World
    deaths: frozenset[tuple[int, str]] = frozenset()
    stored: Durable = field(default_factory=Durable)
    state: State = field(default_factory=State)
    posts: list[ActionKind] = field(default_factory=list)
    longest_stop: float = 0.0
    _stopped_at: float | None = None

    def begin(self) -> Guard:
        """A run begins, as `recover` would begin it."""
        self.world.react()
        policy, snapshot = self.world.policy, self.world.snapshot()
        state, _ = decide(policy, self.state, snapshot)
        scene = Scene(policy, state, snapshot, census(policy, state, snapshot))
        self.stored = playbook.begin(scene, Playbook.FREEZE, "its API is silent")
        self.state = replace(state, durable=self.stored)
        return self

    def run(self, ticks: int = 400) -> Guard:
        """Tick until the run is over, at most so often."""
        for _ in range(ticks):
            if self.state.durable.playbook is None and self.stored.playbook is None:
                return self
            self.tick()
            self._note_stop()
            self.world.pass_time(1.0)
        return self

    def tick(self) -> None:
        """One tick of the sentinel: decide, store, act, absorb, store."""
        world = self.world
        state, decision = decide(world.policy, self.state, world.snapshot())
        steps = [a for a in decision.actions if a.rung is Rung.PLAYBOOK and not decision.would]
        number = len(self.posts)
        if steps and self._dies(number, "decided"):
            self.posts.append(steps[0].kind)
            return
        self.stored = state.durable
        self.state = state
        for action in steps:
            self.posts.append(action.kind)
            if self._dies(number, "stored") or self._dies(number, "posted"):
                return
            assert world.served is not None
            outcome = world.served.end(action, world.now)
            world.react()
            if self._dies(number, "effect"):
                return
            if outcome is not None:
                self.state = absorb(world.policy, self.state, outcome)
            if self._dies(number, "absorbed"):
                return
            self.stored = self.state.durable
            if self._dies(number, "kept"):
                return

    def _dies(self, number: int, point: str) -> bool:
        if (number, point) not in self.deaths:
            return False
        # What is left is what the state map holds: plain JSON.
        self.stored = from_plain(Durable, json.loads(json.dumps(to_plain(self.stored))))
        self.state = State(durable=self.stored)
        return True

    def _note_stop(self) -> None:
        assert self.world.served is not None
        if self.world.served.running:
            self._stopped_at = None
        elif self._stopped_at is None:
            self._stopped_at = self.world.now
        else:
            self.longest_stop = max(self.longest_stop, self.world.now - self._stopped_at)

    @property
    def last(self) -> Run:
        """How the run ended."""
        return self.stored.runs[-1]


def assert_serves(guard: Guard) -> None:
    """Ollama runs, the run is over and written down, within a bounded number of steps."""
    served = guard.world.served
    assert served is not None
    assert served.running
    assert guard.stored.playbook is None
    assert guard.last.ending is not Ending.RUNNING
    unwritten = sum(1 for number, point in guard.deaths if point == "decided" and number < len(guard.posts))
    assert len(guard.posts) - unwritten <= sum(playbook.TRIES.values()) + 2 * len(WHOLE)


def assert_healed(guard: Guard) -> None:
    """And it is the end of a run that nothing went wrong in."""
    assert_serves(guard)
    served = guard.world.served
    assert served is not None
    assert served.environment["OLLAMA_MAX_LOADED_MODELS"] == "1"
    assert set(served.hidden) == {"huge", "vast"}
    assert guard.stored.constrained is not None
    assert guard.last.ending is Ending.DONE, guard.last.text


def test_an_undisturbed_run_goes_through_every_step_in_order() -> None:
    """Constraints come before the stop, quarantine before the start, the largest model first."""
    guard = Guard(frozen_world()).begin().run()
    assert guard.posts == WHOLE
    assert_healed(guard)
    served = guard.world.served
    assert served is not None
    assert [a.names for a in served.done if a.kind is ActionKind.QUARANTINE] == [("vast",), ("huge",)]
    assert next(a.model for a in served.done if a.kind is ActionKind.VERIFY) == "tiny"
    assert served.limits is not None
    assert served.limits.memory_bytes == 3 * GIB


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_a_guard_that_dies_once_anywhere_comes_to_the_same_end(number: int, point: str) -> None:
    assert_healed(Guard(frozen_world(), frozenset({(number, point)})).begin().run())


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_where_manifests_cannot_be_renamed_models_are_hidden_after_the_start(number: int, point: str) -> None:
    """By the API, which needs the server; until then they are condemned."""
    world = frozen_world()
    assert world.served is not None
    world.served.writable = False
    guard = Guard(world, frozenset({(number, point)})).begin().run()
    assert_healed(guard)
    assert len(guard.stored.condemned) == 2
    order = [kind for kind, _ in itertools.groupby(a.kind for a in world.served.done)]
    assert order[-3:] == [ActionKind.START, ActionKind.QUARANTINE, ActionKind.VERIFY]


def test_a_guard_that_dies_at_any_two_points_comes_to_the_same_end() -> None:
    every = list(itertools.product(range(len(WHOLE) + 1), POINTS))
    for deaths in itertools.combinations(every, 2):
        assert_healed(Guard(frozen_world(), frozenset(deaths)).begin().run())


def test_where_manifests_cannot_be_renamed_any_two_deaths_come_to_the_same_end() -> None:
    every = list(itertools.product(range(len(WHOLE) + 1), POINTS))
    for deaths in itertools.combinations(every, 2):
        world = frozen_world()
        assert world.served is not None
        world.served.writable = False
        guard = Guard(world, frozenset(deaths)).begin().run()
        assert_healed(guard)
        assert len(guard.stored.condemned) == 2, deaths


KILLED = [*WHOLE[:2], ActionKind.KILL_SERVER, *WHOLE[1:]]


def killed(fault: str, *deaths: tuple[int, str]) -> Guard:
    """A run whose first stop goes wrong, so that its server is killed, and then stopped for good."""
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.STOP: [fault]}
    return Guard(world, frozenset(deaths)).begin().run(800)


@pytest.mark.parametrize("fault", ["fail", "hang"])
def test_a_server_that_cannot_be_stopped_is_killed_and_one_death_changes_nothing(fault: str) -> None:
    assert killed(fault).posts == KILLED
    for death in itertools.product(range(len(KILLED) + 1), POINTS):
        assert_healed(killed(fault, death))


@pytest.mark.parametrize(("fault", "points"), [("fail", POINTS), ("hang", ("stored", "effect"))])
def test_any_two_deaths_around_the_kill_of_a_server_come_to_the_same_end(
    fault: str, points: tuple[str, ...]
) -> None:
    """A stop that hangs is waited for, each time: there only two points, since so long is played."""
    for deaths in itertools.combinations(itertools.product(range(len(KILLED) + 1), points), 2):
        assert_healed(killed(fault, *deaths))


def test_a_guard_that_stops_dying_after_any_number_of_deaths_starts_ollama_again() -> None:
    """However often it died, and wherever: the life that lasts brings the run to its end."""
    for count, point in itertools.product(range(1, 25), POINTS):
        deaths = frozenset((number, point) for number in range(count))
        assert_serves(Guard(frozen_world(), deaths).begin().run(3000))


def test_no_try_is_used_up_while_hands_are_away() -> None:
    """A guard that has just started is not heard by anybody yet."""
    world = frozen_world()
    guard = Guard(world).begin()
    world.hands_alive = False
    guard.run(50)
    assert guard.posts == []
    world.hands_alive = True
    assert_healed(guard.run())


def test_a_start_brings_its_limits_along() -> None:
    """Hands that were restarted since the constraints were written remember none."""
    guard = Guard(frozen_world()).begin().run()
    assert guard.world.served is not None
    (start,) = [a for a in guard.world.served.done if a.kind is ActionKind.START]
    assert start.limits is not None
    assert start.limits.memory_bytes == 3 * GIB


def test_a_start_of_a_run_that_is_given_up_sets_no_limits() -> None:
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.STOP: ["fail"] * 9, ActionKind.KILL_SERVER: ["fail"] * 9}
    Guard(world).begin().run()
    (start,) = [a for a in world.served.done if a.kind is ActionKind.START]
    assert start.limits is None


def test_a_step_that_went_well_at_its_second_try_is_no_trouble() -> None:
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {kind: ["fail"] for kind in dict.fromkeys(WHOLE) if kind is not ActionKind.VERIFY}
    assert_healed(Guard(world).begin().run())


def test_a_server_whose_models_do_not_answer_serves_only_partly() -> None:
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.VERIFY: ["fail", "fail"]}
    guard = Guard(world).begin().run()
    assert_serves(guard)
    assert guard.last.ending is Ending.PARTLY
    assert "no model answered" in guard.last.text


def test_any_step_that_goes_wrong_once_leaves_ollama_running() -> None:
    for kind, fault in itertools.product(STEPS, FAULTS):
        world = frozen_world()
        assert world.served is not None
        world.served.faults = {kind: [fault], ActionKind.STOP: ["hang"]} if kind is STEPS[-1] else {}
        world.served.faults.setdefault(kind, [fault])
        guard = Guard(world).begin().run()
        assert_serves(guard)
        assert set(world.served.hidden) == {"huge", "vast"}, (kind, fault, guard.posts)


def test_any_two_faults_with_a_death_between_leave_ollama_running() -> None:
    worst = ("fail", "lost")
    pairs = itertools.product(itertools.combinations_with_replacement(STEPS, 2), worst, worst)
    for ((one, other), first, second), point in itertools.product(pairs, ("stored", "effect")):
        world = frozen_world()
        assert world.served is not None
        world.served.faults = both(one, first, other, second)
        assert_serves(Guard(world, frozenset({(2, point)})).begin().run(2000))


def both(one: ActionKind, first: str, other: ActionKind, second: str) -> dict[ActionKind, list[str]]:
    if one is other:
        return {one: [first, second]}
    return {one: [first], other: [second]}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [kind for kind in STEPS if kind is not ActionKind.START])
def test_a_step_that_always_goes_wrong_is_given_up_and_ollama_started(kind: ActionKind, fault: str) -> None:
    """The run says what it could not do, and never calls that done; what is hidden is told by the store."""
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {kind: [fault] * 100}
    if kind is ActionKind.KILL_SERVER:
        world.served.faults[ActionKind.STOP] = ["hang"] * 100
    guard = Guard(world).begin().run(3000)
    assert_serves(guard)
    hidden = kind is ActionKind.QUARANTINE and fault in ("late", "lost")
    assert guard.last.ending in ((Ending.DONE,) if hidden else (Ending.PARTLY, Ending.FAILED))
    assert guard.last.text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_that_goes_wrong_is_tried_until_it_works(fault: str) -> None:
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.START: [fault] * 12}
    guard = Guard(world).begin().run(12000)
    assert world.served.running
    assert guard.stored.playbook is None
    assert guard.posts.count(ActionKind.START) <= 13


def test_the_tries_of_a_start_come_ever_more_seldom() -> None:
    """A container that can't be started must not be drummed at."""
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.START: ["fail"] * 1000}
    guard = Guard(world).begin().run(3600)
    assert guard.stored.playbook is not None
    assert guard.posts.count(ActionKind.START) < 25


@pytest.mark.parametrize("wish", ["paused", "observing"])
def test_a_run_that_the_owner_cuts_short_starts_ollama_and_does_nothing_else(wish: str) -> None:
    for posts in range(1, len(WHOLE)):
        guard = Guard(frozen_world()).begin()
        while len(guard.posts) < posts:
            guard.tick()
            guard.world.pass_time(1.0)
        if wish == "paused":
            guard.state = replace(
                guard.state, durable=replace(guard.state.durable, pause_until_at=guard.world.now + 1e6)
            )
        else:
            mode = replace(guard.world.policy.ollama, mode=Mode.OBSERVE)
            guard.world.policy = replace(guard.world.policy, ollama=mode)
        guard.stored = guard.state.durable
        guard.run()
        served = guard.world.served
        assert served is not None
        assert served.running
        assert guard.stored.playbook is None
        assert set(guard.posts[posts:]) <= {ActionKind.START}


def after_posts(count: int) -> Guard:
    """A run of which so many steps have been done."""
    guard = Guard(frozen_world()).begin()
    while len(guard.posts) < count:
        guard.tick()
        guard.world.pass_time(1.0)
    return guard


def test_a_stop_that_is_refused_is_never_answered_with_a_kill() -> None:
    """The runtime or its rights say no: nothing was stopped, so the run is over, and says why."""
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.STOP: ["refuse"] * 100}
    guard = Guard(world).begin().run()
    assert guard.posts == [ActionKind.CONSTRAIN, ActionKind.STOP]
    assert world.served.pid == world.served.servers()[0].pid
    assert guard.last.ending is Ending.FAILED
    assert "refused" in guard.last.text


def test_a_stop_that_is_refused_after_one_that_was_lost_ends_with_a_start() -> None:
    """The one before may have stopped it."""
    world = frozen_world()
    assert world.served is not None
    world.served.faults = {ActionKind.STOP: ["refuse"] * 100}
    guard = Guard(world, frozenset({(1, "posted")})).begin().run()
    assert guard.posts == [ActionKind.CONSTRAIN, ActionKind.STOP, ActionKind.STOP, ActionKind.START]
    assert guard.last.ending is Ending.FAILED


def test_a_stop_whose_hands_died_is_asked_for_again() -> None:
    """Nobody refused it, and nobody waited for it in vain."""
    guard = Guard(frozen_world(), frozenset({(1, "posted")})).begin()
    while len(guard.posts) < 2:
        guard.tick()
        guard.world.pass_time(1.0)
    position = guard.stored.playbook
    assert position is not None
    stop = next(a for a in decide(guard.world.policy, guard.state, guard.world.snapshot())[1].actions)
    asked = playbook.posted(guard.stored, stop)
    died = playbook.after(
        asked, stop, Outcome(stop.id, OutcomeKind.FAILED, guard.world.now, detail="hands died"), Policy()
    )
    assert died.playbook is not None
    assert died.playbook.step is Step.STOP


def test_a_server_that_is_not_the_one_of_the_run_is_never_killed() -> None:
    """Docker's container hangs, and the only server there is by now is somebody else's."""
    world = frozen_world()
    served = world.served
    assert served is not None
    served.faults = {ActionKind.STOP: ["fail"] * 100}
    guard = Guard(world).begin()
    ours = replace(served.reading, server_pid=served.pid + 1)
    served.runtimes = lambda now: (replace(ours, read_at=now),)  # type: ignore[method-assign]
    guard.run()
    assert ActionKind.KILL_SERVER not in guard.posts
    assert_serves(guard)


@pytest.mark.parametrize("lost", ["authority", "enabled", "never"])
def test_a_run_whose_leave_is_taken_back_stops_nothing_any_more(lost: str) -> None:
    """The owner's line, the playbook's switch, or what may never be stopped: looked at before each step."""
    for posts in (1, 2):
        guard = after_posts(posts)
        world, served = guard.world, guard.world.served
        assert served is not None
        if lost == "authority":
            world.policy = replace(world.policy, ollama=OllamaPolicy())
        elif lost == "enabled":
            world.policy = replace(world.policy, playbook=PlaybookPolicy(enabled=False))
        else:
            served.reading = replace(served.reading, auto_remove=True)
        guard.run()
        assert served.running
        assert guard.stored.playbook is None
        if posts == 1:
            assert guard.posts == [ActionKind.CONSTRAIN]
            assert guard.last.ending is Ending.FAILED
        elif lost != "never":
            assert guard.posts[posts:] == [ActionKind.START]


def test_a_run_by_hand_needs_no_leave_of_the_file() -> None:
    guard = after_posts(1)
    position = guard.state.durable.playbook
    assert position is not None
    by_hand = replace(guard.state.durable, playbook=replace(position, by_hand=True))
    guard.state, guard.stored = replace(guard.state, durable=by_hand), by_hand
    guard.world.policy = replace(guard.world.policy, ollama=OllamaPolicy())
    assert_healed(guard.run())


def test_a_container_that_is_gone_is_not_waited_for() -> None:
    world = frozen_world()
    served = world.served
    assert served is not None
    served.faults = {ActionKind.START: ["fail"] * 100}
    guard = Guard(world).begin().run(60)
    served.reading = replace(served.reading, state=RuntimeState.GONE)
    gone = replace(served.reading, read_at=world.now + 1)
    served.runtimes = lambda _now: (gone,)  # type: ignore[method-assign]  # the container was removed
    guard.run(600)
    assert guard.stored.playbook is None
    assert guard.last.ending is Ending.FAILED
    assert "gone" in guard.last.text


def test_a_container_that_hands_have_known_nothing_of_for_long_is_gone() -> None:
    """It was taken away for good while hands were not there, so nobody ever says that it is gone."""
    world = frozen_world()
    served = world.served
    assert served is not None
    served.faults = {ActionKind.START: ["fail"] * 100}
    guard = Guard(world).begin().run(60)
    told = served.runtimes
    served.runtimes = lambda _now: ()  # type: ignore[method-assign]
    world.hands_alive = False
    guard.run(700)
    world.hands_alive = True
    guard.run(500)
    assert guard.stored.playbook is not None
    served.runtimes = told  # type: ignore[method-assign]
    guard.run(10)
    served.runtimes = lambda _now: ()  # type: ignore[method-assign]
    guard.run(500)
    assert guard.stored.playbook is not None
    guard.run(200)
    assert guard.stored.playbook is None
    assert "gone" in guard.last.text


def test_a_guard_that_has_just_started_takes_nothing_for_gone() -> None:
    """However long ago its last life knew nothing of it."""
    world = frozen_world()
    served = world.served
    assert served is not None
    served.faults = {ActionKind.START: ["fail"] * 100}
    guard = Guard(world).begin().run(60)
    served.runtimes = lambda _now: ()  # type: ignore[method-assign]
    guard.run(60)
    world.pass_time(3600)
    guard.state = State(durable=guard.state.durable)
    guard.run(500)
    assert guard.stored.playbook is not None
    guard.run(200)
    assert guard.stored.playbook is None


def test_an_outcome_of_an_action_that_is_not_the_present_one_changes_nothing() -> None:
    guard = Guard(frozen_world()).begin()
    guard.tick()
    assert guard.world.served is not None
    late = replace(guard.world.served.done[-1], id=99)
    done = Outcome(99, OutcomeKind.DONE, guard.world.now)
    assert playbook.after(guard.stored, late, done, Policy()) == guard.stored
