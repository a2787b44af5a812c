"""What was constrained is opened again step by step, and the restart that ends it costs nobody anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ollama_guard.core import lines, reopen, revive
from ollama_guard.core.codec import from_plain, to_plain
from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.model import Action, ActionKind, Mode, Outcome, OutcomeKind, Request, Rung
from ollama_guard.core.policy import MIB, Authority, OllamaPolicy, PlaybookPolicy, Policy
from ollama_guard.core.recovery import Written
from ollama_guard.core.runtime import RuntimeState
from ollama_guard.core.state import Durable, State
from ollama_guard.testing.scenario import World
from ollama_guard.testing.served import Served

POLICY = Policy(ollama=OllamaPolicy(authority=Authority.SERVER))
QUIET = POLICY.playbook.quiet_seconds
# A server that reads its file when it starts, and began after the playbook's lines stood there.
LINES = Written(at=900.0, bound=1, constrains=True)


def lifted_world(policy: Policy = POLICY) -> World:
    """A server that still runs under what was lifted a moment ago, and has nothing to do."""
    served = Served(started_at=950.0, environment={"OLLAMA_NUM_PARALLEL": "1"})
    world = World(policy=policy, served=served)
    world.load("tiny", 300 * MIB)
    world.models = []
    world.state = State(durable=Durable(written=(LINES, Written(at=world.now)), restarts=0))
    return world


def restarts(world: World) -> list[Action]:
    """All that were begun."""
    begun = (action for decision in world.decisions if not decision.would for action in decision.actions)
    return [action for action in begun if action.kind is ActionKind.RESTART]


def test_after_a_freeze_the_constraints_are_lifted_and_then_ended_by_one_restart() -> None:
    world = World(policy=POLICY, served=Served(ill=True, process_state="T"))
    world.load("tiny", 300 * MIB)
    world.models = []
    world.play(
        QUIET + 300, until=lambda w: bool(w.state.durable.runs) and w.state.durable.constrained is None
    )
    served = world.served
    assert served is not None
    assert served.written == {}
    assert served.environment["OLLAMA_NUM_PARALLEL"] == "1"
    lifted_at, begun_at = world.now, served.started_at
    world.play(2 * QUIET)
    assert served.environment == {}
    assert served.running
    assert served.started_at - lifted_at >= QUIET - 10
    assert served.started_at > begun_at
    assert len(restarts(world)) == 1
    assert "which runs under what the playbook set and has lifted" in restarts(world)[0].reason
    world.play(5)
    assert world.state.durable.stopped is None


def test_nothing_is_restarted_before_it_has_been_quiet_once_more() -> None:
    world = lifted_world()
    world.play(QUIET - 30)
    assert not restarts(world)
    world.play(60)
    assert len(restarts(world)) == 1


def asked_now_and_then(world: World) -> None:
    """A client loads a model each 50 s, which is gone 30 s later: never a minute without one."""
    world.load("tiny", 300 * MIB)
    world.play(30)
    world.models = []
    world.play(20)


def a_loaded_model(world: World) -> None:
    if not world.models:
        world.load("tiny", 300 * MIB)
    world.play(50)


def listed_without_a_runner(world: World) -> None:
    """What is no child of the server, or has no name here, is known to Ollama alone."""
    snapshot = world.snapshot
    listed = replace(world.snapshot().api, loaded=(ghost(),))

    def shown() -> Any:
        told = snapshot()
        return replace(told, api=replace(listed, loaded_at=told.now, answered_at=told.now))

    world.snapshot = shown  # type: ignore[method-assign]  # the story's own, for this look only
    world.play(50)
    world.snapshot = snapshot  # type: ignore[method-assign]


def ghost() -> Any:
    world = World()
    world.load("remote", 100 * MIB)
    return world.snapshot().api.loaded[0]


def pulling(world: World) -> None:
    assert world.served is not None
    world.served.busy = "a pull is running"
    world.play(50)


def unreadable_store(world: World) -> None:
    """Whether something is pulled is not known."""
    assert world.served is not None
    world.served.readable = False
    world.play(50)


def short_memory(world: World) -> None:
    world.other = 3400 * MIB
    world.play(50)


def reading(**changes: Any) -> Callable[[World], None]:
    """The runtime as something else."""

    def story(world: World) -> None:
        assert world.served is not None
        world.served.reading = replace(world.served.reading, **changes)
        world.play(50)

    return story


def policy(**changes: Any) -> Callable[[World], None]:
    def story(world: World) -> None:
        world.policy = replace(POLICY, **changes)
        world.play(50)

    return story


def remembered(**changes: Any) -> Callable[[World], None]:
    def story(world: World) -> None:
        world.state = replace(world.state, durable=replace(world.state.durable, **changes))
        world.play(50)

    return story


def paused(world: World) -> None:
    durable = replace(world.state.durable, pause_until_at=world.now + 1000)
    world.state = replace(world.state, durable=durable)
    world.play(50)


WRONG_MOMENTS = {
    "asked now and then": asked_now_and_then,
    "a loaded model": a_loaded_model,
    "listed without a runner": listed_without_a_runner,
    "a pull": pulling,
    "a store that can't be read": unreadable_store,
    "short memory": short_memory,
    "paused": paused,
    "paused container": reading(state=RuntimeState.PAUSED),
    "upgrade": reading(state=RuntimeState.CHANGING),
    "--rm": reading(auto_remove=True),
    "shared namespaces": reading(shared_by=("web",)),
    "no polkit": reading(verbs=()),
    "docker away": reading(error="absent", reason="no Docker listens"),
    "reads no file": reading(constrainable=False),
    "observe": policy(ollama=OllamaPolicy(authority=Authority.SERVER, mode=Mode.OBSERVE)),
    "no authority": policy(ollama=OllamaPolicy(authority=Authority.RUNNERS)),
    "disabled": policy(playbook=PlaybookPolicy(enabled=False)),
    "released by hand": remembered(released=True),
    "tried often enough": remembered(restarts=reopen.RESTARTS),
    "nothing was lifted": remembered(written=()),
    "constrained": remembered(written=(LINES,)),
    "a cap that waits": remembered(written=(Written(900.0), Written(1000.0, 2))),
}


@pytest.mark.parametrize("moment", WRONG_MOMENTS)
def test_a_restart_that_would_cost_somebody_something_is_not_made(moment: str) -> None:
    world = lifted_world()
    for _ in range(20):
        WRONG_MOMENTS[moment](world)
    assert not restarts(world), moment
    assert world.served is not None
    assert world.served.running


def test_without_the_owners_word_it_is_told_once_what_would_be_done() -> None:
    world = lifted_world(Policy(ollama=OllamaPolicy(authority=Authority.RUNNERS)))
    world.play(3 * QUIET)
    would = [d for d in world.decisions if d.would and d.actions[0].kind is ActionKind.RESTART]
    assert len(would) == 1
    assert 'authority = "server"' in would[0].reason


def test_the_look_right_before_the_restart_counts() -> None:
    """The sentinel senses and decides again before what is disruptive; a load that begins there ends it."""
    world = lifted_world()
    world.play(2 * QUIET, until=lambda w: bool(reopen_due(w)))
    decision = reopen_due(world)
    assert decision is not None
    assert decision.disruptive
    world.load("tiny", 300 * MIB, loaded=False)
    again = decide(world.policy, world.state, world.snapshot())[1]
    assert not again.same_as(decision)
    assert not any(action.kind is ActionKind.RESTART for action in again.actions)


def reopen_due(world: World) -> Any:
    """The decision of this moment, if it is a restart; nothing is done."""
    decision = decide(world.policy, world.state, world.snapshot())[1]
    return decision if any(action.kind is ActionKind.RESTART for action in decision.actions) else None


def test_what_was_read_before_a_release_tells_nothing_after_it() -> None:
    """Hands read a runtime each 15 s: until then its reading still has the limit that was just lifted."""
    world = lifted_world()
    assert world.served is not None
    world.served.reading = replace(world.served.reading, owners_limit_bytes=0)
    release = Action(9, ActionKind.RELEASE, Rung.PLAYBOOK, world.now + 30, runtime="ollama.service")
    ended = Outcome(9, OutcomeKind.DONE, world.now)
    for read_at, adopted in ((world.now - 1, False), (world.now, False), (world.now + 1, True)):
        snapshot = world.snapshot()
        told = replace(snapshot, runtimes=(replace(snapshot.runtimes[0], read_at=read_at),))
        state, _ = decide(world.policy, replace(world.state, finished=((release, ended),)), told)
        assert (state.durable.constrained is not None) is adopted


def test_whoever_starts_ollama_before_has_saved_the_restart() -> None:
    world = lifted_world()
    world.play(100)
    assert world.served is not None
    world.served.started_at, world.served.pid = world.now, world.served.pid + 1
    world.play(3 * QUIET)
    assert not restarts(world)


# Where a guard can die around the post, and how the restart can end besides well (as `Served.faults` says).
POINTS = (None, "decided", "stored", "posted", "effect", "absorbed", "kept")
FAULTS = ("", "fail", "refuse", "late", "lost", "hang", "half", "cut")


class Guard:
    """A sentinel over `lifted_world` that dies once, around its first restart."""

    def __init__(self, point: str | None, faults: tuple[str, ...]) -> None:
        self.world = lifted_world(replace(POLICY, playbook=PlaybookPolicy(quiet_seconds=30.0)))
        served = self.world.served
        assert served is not None
        self.served = served
        served.faults = {ActionKind.RESTART: list(faults)}
        self.stored, self.state = self.world.state.durable, self.world.state
        self.dies, self.posts, self.down_seconds = point, 0, 0.0

    @property
    def settled(self) -> bool:
        """Whether the lines are out of force, and nothing is watched any more."""
        return self.served.running and not self.served.environment and self.state.durable.stopped is None

    def run(self, seconds: float) -> None:
        """One tick a second, until all is as it should be."""
        end = self.world.now + seconds
        while self.world.now < end and not self.settled:
            self.tick()
            self.down_seconds += not self.served.running
            if self.served.away and self.posts and int(self.world.now) % 60 == 0:
                self.served.away = False
            self.world.pass_time(1.0)
            self.world.react()

    def tick(self) -> None:
        """Decide, store, act, absorb, store."""
        world = self.world
        state, decision = decide(world.policy, self.state, world.snapshot())
        actions = [] if decision.would else [a for a in decision.actions if a.rung is Rung.PLAYBOOK]
        self.posts += sum(1 for action in actions if action.kind is ActionKind.RESTART)
        if actions and self.dead("decided"):
            return
        self.state, self.stored = state, state.durable
        for action in actions:
            if self.dead("stored") or self.dead("posted"):
                return
            outcome = self.served.end(action, world.now)
            if self.dead("effect"):
                return
            if outcome is not None:
                self.state = absorb(world.policy, self.state, outcome)
            if self.dead("absorbed"):
                return
            self.stored = self.state.durable
            if self.dead("kept"):
                return

    def dead(self, point: str) -> bool:
        """Die here, once: what is left is what the state map holds."""
        if self.dies != point:
            return False
        self.dies = None
        self.state = State(durable=from_plain(Durable, to_plain(self.stored)))
        return True


@pytest.mark.parametrize(
    ("point", "faults"),
    [(point, (fault,)) for point in POINTS for fault in FAULTS]
    + [(None, pair) for pair in itertools.product(FAULTS[1:], FAULTS[1:])],
)
def test_a_restart_cut_off_anywhere_leaves_ollama_running_and_is_tried_a_few_times(
    point: str | None, faults: tuple[str, ...]
) -> None:
    guard = Guard(point, faults)
    guard.run(900)
    assert guard.served.running
    assert guard.state.durable.stopped is None
    assert guard.posts <= reopen.RESTARTS + 1, "one may be lost before it is written down"
    assert guard.down_seconds <= 200
    # In the end the lines are out of force, by the restart or by the start that mended it.
    assert guard.served.environment == {}


def test_a_restart_that_is_never_heard_of_is_given_up_and_told_as_lifted() -> None:
    guard = Guard(None, ("refuse",) * 10)
    guard.run(500)
    assert guard.posts == reopen.RESTARTS
    assert guard.served.running
    assert guard.served.environment != {}
    assert lines.written(guard.state.durable) == guard.state.durable.written[-1]


def test_after_a_restart_that_came_to_nothing_it_has_to_be_quiet_again() -> None:
    guard = Guard(None, ("refuse", "refuse", "refuse"))
    guard.run(75)
    assert guard.posts == 1
    guard.run(20)
    assert guard.posts == 2


def test_what_the_owner_stops_after_a_restart_that_was_refused_stays_stopped() -> None:
    guard = Guard(None, ("refuse",))
    guard.run(75)
    assert guard.posts == 1
    assert guard.state.durable.stopped is None
    guard.served.running = False
    guard.run(60)
    assert not guard.served.running


def test_what_is_answered_before_the_stop_takes_effect_does_not_end_the_watch_over_it() -> None:
    """Docker takes up to two seconds; an answer in between is the old server's."""
    action = Action(1, ActionKind.RESTART, Rung.PLAYBOOK, 1060.0, runtime="ollama.service")
    world = lifted_world()
    durable = revive.posted(world.state.durable, action, 1000.0)
    world.now = 1005.0
    world.state = State(durable=durable)
    world.play(3)
    assert world.state.durable.stopped is not None
    assert world.served is not None
    world.served.running = False
    world.play(10)
    assert world.served.running
    ended = revive.after(durable, action, Outcome(1, OutcomeKind.DONE, 1010.0))
    assert ended.stopped is not None
    assert ended.stopped.since_at == 1010.0


def test_a_release_by_hand_is_followed_by_no_restart() -> None:
    """A person asked for it, and a person says when."""
    world = World(policy=POLICY, served=Served(ill=True, process_state="T"))
    world.load("tiny", 300 * MIB)
    world.models = []
    world.play(200, until=lambda w: bool(w.state.durable.runs) and w.state.durable.playbook is None)
    world.requests = (Request(1, "release"),)
    world.play(10)
    assert world.state.durable.constrained is None
    world.play(4 * QUIET)
    assert not restarts(world)
