"""What must hold whatever happens: plausible troubles of a small host, and sheer garbage."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from ollama_guard.core import cap
from ollama_guard.core.codec import from_plain, to_plain
from ollama_guard.core.decide import absorb, decide, planned_delay
from ollama_guard.core.events import EVENT_NAMES, as_journal, as_json, as_line
from ollama_guard.core.footprint import Ledger
from ollama_guard.core.ledger import rows_of, taught, with_rows
from ollama_guard.core.lessons import lessons
from ollama_guard.core.model import (
    HOST,
    ActionKind,
    Activity,
    Decision,
    Level,
    Mode,
    Outcome,
    Preference,
    Rung,
    Snapshot,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.pace import RESTING_SECONDS
from ollama_guard.core.policy import GIB, MIB, ModelRule, OllamaPolicy, Policy, Protect
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.core.recovery import Ending, Playbook, Run
from ollama_guard.core.runners import Runner, census
from ollama_guard.core.scene import Scene, killable
from ollama_guard.core.state import Condemned, Durable, State
from ollama_guard.core.status import view
from ollama_guard.core.tiers import Tier
from ollama_guard.core.victims import mercy_seconds
from ollama_guard.testing.scenario import World, blob_of
from ollama_guard.testing.served import SERVER_ACTIONS, Served
from unit.core.strategies import Tale, enforcing, garbage, happen, outcomes, policies, tales

CONTRACT_KEYS = {
    "": "version mode level since domains ollama models quarantine condemned conditions last_decision "
    "playbook tiers largest_allowed consumers guard unknown",
    "domains": "name capacity_bytes available_bytes available_ratio psi_some_avg10 psi_full_avg10 "
    "slope_bytes_per_second time_to_exhaustion_seconds level thresholds",
    "ollama": "url alive version latency_seconds runtime cap",
    "ollama.runtime": "kind name",
    "ollama.cap": "soft hard pending",
    "models": "name aliases blob size_bytes resident_bytes vram_bytes state pid preference expires_at",
    "quarantine": "name alias blob how since size_bytes needs_bytes reason returned",
    "condemned": "blob names until needs_bytes kills",
    "conditions": "condition since true_now reason",
    "last_decision": "at action reason outcome freed_bytes",
    "tiers": "name model allowed reason",
    "playbook": "name state step runs_last_hour last",
    "playbook.last": "name outcome ended_at text",
    "guard": "pid pss_bytes cpu_seconds tick_seconds dropped",
}


@dataclass(frozen=True)
class Moment:
    """One tick of a tale: what was seen, what was known before and after, what was decided."""

    before: State
    after: State
    snapshot: Snapshot
    decision: Decision
    scene: Scene

    @property
    def runners(self) -> dict[tuple[int, int], Runner]:
        """The runners as the ladder saw them, before this tick's actions."""
        return {runner.key: runner for runner in self.scene.runners}


# What is done to the server and its models, rather than to a runner.
ON_SERVER = frozenset(SERVER_ACTIONS)
HARMLESS = {ActionKind.QUARANTINE, ActionKind.START, ActionKind.VERIFY}


def by_itself(tale: Tale) -> Tale:
    """The same tale without anything that a person orders, which is done in every mode."""
    return replace(tale, steps=tuple(step for step in tale.steps if step.what not in ("by_hand", "release")))


def told(tale: Tale, world: World | None = None) -> Iterator[Moment]:
    """Every tick of a tale, in a world that is as it began or was changed since."""
    world = world or tale.begin()
    for step in tale.steps:
        happen(world, step)
        for _ in range(step.ticks):
            world.settle()
            world.react()
            before, snapshot = world.state, world.snapshot()
            decision = world.tick()
            seen = replace(world.state, in_flight=before.in_flight, issued_at=before.issued_at)
            scene = Scene(world.policy, seen, snapshot, census(world.policy, seen, snapshot))
            yield Moment(before, world.state, snapshot, decision, scene)
            if step.dt is None:
                world._sleep(world.state.planned_delay_seconds)
            else:
                world.pass_time(step.dt)


# A moment of each kind has to come up in this many of the tales below, so that what follows means something.
FLOOR = {
    **dict.fromkeys((Rung.HOLD, Rung.UNLOAD_IDLE, Rung.KILL_RUNNER, Rung.PLAYBOOK), 5),
    **dict.fromkeys((Rung.CAP, Rung.ABORT_LOAD, Rung.DRAIN_BUSY), 2),
    **dict.fromkeys((ActionKind.CONSTRAIN, ActionKind.STOP, ActionKind.START, ActionKind.VERIFY), 5),
    ActionKind.KILL_SERVER: 2,
    ActionKind.RELEASE: 5,
    "a second domain": 5,
    "a model of omit": 5,
}


def test_the_tales_come_to_every_rung_and_most_actions() -> None:
    """What holds at each moment of each tale says nothing of what no tale comes to."""
    reached: Counter[Any] = Counter()

    @seed(1)
    @settings(max_examples=200, phases=[Phase.generate], database=None)
    @given(tales(enforcing))
    def count(tale: Tale) -> None:
        seen: set[Any] = set()
        for moment in told(tale):
            seen |= {moment.decision.rung, *(action.kind for action in moment.decision.actions)}
            seen |= {"a second domain"} if len(moment.snapshot.domains) > 1 else set()
            rules = {runner.rule.preference for runner in moment.scene.runners}
            seen |= {"a model of omit"} if Preference.OMIT in rules else set()
        reached.update(seen)

    count()
    assert {what: reached[what] for what in FLOOR if reached[what] < FLOOR[what]} == {}


@given(tales())
def test_it_never_acts_while_observing(tale: Tale) -> None:
    observing = replace(by_itself(tale), policy=replace(tale.policy, ollama=OllamaPolicy(mode=Mode.OBSERVE)))
    for moment in told(observing):
        assert not moment.after.in_flight
        assert moment.decision.would == bool(moment.decision.actions)


@given(tales(enforcing))
def test_it_never_acts_while_paused(tale: Tale) -> None:
    world = tale.begin()
    world.state = State(durable=Durable(pause_until_at=world.now + 1e6))
    for moment in told(by_itself(tale), world):
        assert not moment.after.in_flight
        assert moment.decision.would == bool(moment.decision.actions)


@given(tales(enforcing), st.booleans())
def test_it_never_acts_while_blind(tale: Tale, unread: bool) -> None:  # noqa: FBT001 - drawn
    """Neither when the host's memory can't be read nor when a process can't be placed.

    Only a run that has stopped Ollama, or was ordered by hand, goes on with what touches no process.
    """
    for moment in told(by_itself(tale)):
        domains = tuple(replace(d, available_bytes=None, reason="EIO") for d in moment.snapshot.domains)
        blinded = (
            replace(moment.snapshot, domains=domains)
            if unread
            else replace(moment.snapshot, blind=("whose pid 7 is",))
        )
        _, decision = decide(tale.policy, moment.before, blinded)
        if moment.before.durable.playbook is not None:
            assert {action.kind for action in decision.actions} <= HARMLESS
            continue
        assert decision.rung is Rung.HOLD
        assert not decision.actions
        assert "blind" in decision.reason


# Two of the four models are the owner's, each in one of the two ways.
OMITTED = {
    "a": ModelRule(Preference.OMIT, Protect.BELOW_CRITICAL),
    "b": ModelRule(Preference.OMIT, Protect.ALWAYS),
}


@settings(max_examples=150)
@given(tales(enforcing.map(lambda policy: replace(policy, models=OMITTED))))
def test_the_owners_preference_is_kept(tale: Tale) -> None:
    """``omit`` is untouched below critical, and always with ``protect = "always"``."""
    for moment in told(tale):
        for action in moment.decision.actions:
            if action.key is None or action.kind in ON_SERVER:
                continue
            rule = moment.runners[action.key].rule
            if rule.preference is Preference.OMIT:
                assert action.kind is ActionKind.KILL
                assert moment.after.domains[moment.decision.domain].urgent is Level.CRITICAL
                assert rule.protect is not Protect.ALWAYS


@given(tales(enforcing))
def test_a_busy_runner_is_never_chosen_while_idle_ones_suffice(tale: Tale) -> None:
    for moment in told(tale):
        decision, scene = moment.decision, moment.scene
        struck = [
            moment.runners[a.key] for a in decision.actions if a.key is not None and a.kind not in ON_SERVER
        ]
        if decision.rung is Rung.ABORT_LOAD or not any(r.activity is Activity.BUSY for r in struck):
            continue
        (reading,) = [d for d in moment.snapshot.domains if d.name == decision.domain]
        level = Level.CRITICAL if decision.rung is Rung.KILL_RUNNER else Level.HARD
        target = scene.threshold(reading, level) + scene.policy.min_reclaim_bytes(reading.capacity_bytes or 0)
        need = target - (reading.available_bytes or 0)
        idle = sum(
            runner.memory_bytes
            for runner in scene.within(reading.name)
            if runner.activity is Activity.IDLE
            and runner.rule.preference is not Preference.OMIT
            and (decision.rung is Rung.KILL_RUNNER or scene.can_unload(runner))
            and not mercy_seconds(scene, runner)
        )
        assert idle < need


@given(tales(enforcing), st.integers(0, 40))
def test_at_host_critical_a_kill_that_frees_bytes_is_never_refused(tale: Tale, spent: int) -> None:
    """Whatever the budgets say; only relief that is in time, or a runner that is dying, may be waited for.

    One on which a kill has just failed hangs in the kernel: for a moment nobody asks for it again.
    """
    world = tale.begin()
    durable = replace(
        world.state.durable, fruitless_kills=tuple(world.now - n for n in reversed(range(spent)))
    )
    world.state = replace(world.state, durable=durable)
    for moment in told(tale, world):
        scene, reading = moment.scene, moment.snapshot.domains[0]
        if scene.domain(HOST).raw is not Level.CRITICAL or moment.decision.rung is not Rung.HOLD:
            continue
        target = scene.threshold(reading, Level.CRITICAL) + scene.policy.min_reclaim_bytes(
            reading.capacity_bytes or 0
        )
        coming = scene.coming_in_time_bytes(reading)
        dying = any(
            a.kind is ActionKind.KILL and not scene.too_late(a, reading) for a in scene.in_flight(HOST)
        )
        mortal = [
            runner
            for runner in scene.runners
            if killable(runner)
            and runner.freeable_bytes
            and runner.activity is not Activity.STOPPING
            and not mercy_seconds(scene, runner)
        ]
        assert dying or (reading.available_bytes or 0) + coming >= target or not mortal


@given(tales(enforcing))
def test_a_server_that_the_guard_stopped_runs_again(tale: Tale) -> None:
    """Whatever else happens meanwhile, memory short or the machine asleep: it is never left stopped."""
    world = replace(tale, served=True).begin()
    for _ in told(tale, world):
        pass
    # While it runs with its stop in flight, that is still to come.
    world.play(120, until=lambda w: w.served is not None and w.served.running and not w.state.durable.stopped)
    assert world.served is not None
    assert world.served.running


@given(tales(enforcing))
def test_a_server_is_killed_only_by_a_run_that_could_not_stop_it(tale: Tale) -> None:
    for moment in told(tale):
        for action in moment.decision.actions:
            if action.kind is ActionKind.KILL_SERVER:
                position = moment.before.durable.playbook
                assert position is not None
                assert action.key in moment.before.servers


@given(tales())
def test_a_level_that_was_reached_stays_for_a_whole_transition(tale: Tale) -> None:
    needed: dict[tuple[str, Level], float] = {}
    levels: dict[str, Level] = {}
    for moment in told(tale):
        now = moment.snapshot.now
        for name, domain in moment.after.domains.items():
            for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
                if domain.urgent >= level:
                    needed[name, level] = now
            was = levels.get(name, Level.OK)
            for fallen in range(domain.level + 1, was + 1):
                assert now - needed[name, Level(fallen)] >= tale.policy.transition_seconds
            levels[name] = domain.level


@settings(max_examples=30)
@given(tales())
def test_the_same_snapshot_gives_the_same_decision(tale: Tale) -> None:
    for moment in told(tale):
        again = decide(tale.policy, moment.before, moment.snapshot)
        assert again == (moment.after, moment.decision)


@given(tales())
def test_actions_name_a_proven_runner_of_this_snapshot_once_and_ids_never_repeat(tale: Tale) -> None:
    used: set[int] = set()
    for moment in told(tale):
        proven = {r.key for r in moment.snapshot.runners if r.proven}
        apart = (ActionKind.PURGE_GHOST, *ON_SERVER)
        acted = [action for action in moment.decision.actions if action.kind not in apart]
        assert all(action.key in proven for action in acted)
        assert len({action.key for action in acted}) == len(acted)
        if not moment.decision.would:
            ids = {action.id for action in moment.decision.actions}
            assert not ids & used
            used |= ids


@settings(max_examples=25)
@given(tales())
def test_what_is_told_and_shown_is_well_formed(tale: Tale) -> None:
    for moment in told(tale):
        assert_presentable(tale.policy, moment.before, moment.after, moment.decision, moment.snapshot)


@settings(max_examples=250)
@given(policies, st.lists(st.tuples(garbage, st.lists(outcomes, max_size=2)), min_size=1, max_size=4))
def test_any_snapshot_at_all_gives_a_decision(
    policy: Policy, story: list[tuple[Snapshot, list[Outcome]]]
) -> None:
    """Absurd, missing, hostile, out of order: never an exception, never a delay that can't be slept."""
    state = State()
    for snapshot, ended in story:
        before = state
        state, decision = decide(policy, before, snapshot)
        assert decide(policy, before, snapshot) == (state, decision)
        proven = {r.key for r in snapshot.runners if r.proven}
        apart = (ActionKind.PURGE_GHOST, *ON_SERVER)
        assert all(a.key in proven for a in decision.actions if a.kind not in apart)
        for delay in (planned_delay(policy, state, snapshot), state.planned_delay_seconds):
            assert math.isfinite(delay)
            assert 0 < delay <= RESTING_SECONDS
        assert_presentable(policy, before, state, decision, snapshot)
        ledger, _ = taught(snapshot.footprints, lessons(before, state, snapshot), 5.0, snapshot.wall)
        assert_kept_as_it_is(with_rows(Ledger(), rows_of(ledger)))
        for outcome in ended:
            state = absorb(policy, state, outcome)
        assert (cap.effective(policy, state) or 1) >= 1
        assert from_plain(Durable, json.loads(json.dumps(to_plain(state.durable)))) == state.durable


def test_every_table_of_the_status_has_rows_of_just_the_contracts_keys() -> None:
    """Also those that few tales fill: what is hidden, condemned and has run."""
    world = World(served=Served(), policy=Policy(tiers=(Tier("light", "a"),)))
    world.load("a", GIB)
    world.load("b", 256 * MIB, busy=True)
    world.hog_rate, world.hog_target = 300 * MIB, 1700 * MIB
    world.play(30)
    durable = replace(
        world.state.durable,
        condemned=(Condemned(blob_of("b"), ("b",), world.now, world.now + 600, 600.0, 9 * GIB),),
        runs=(Run(Playbook.FREEZE, 5.0, ending=Ending.DONE, ended_at=50.0, text="well"),),
    )
    entry = QuarantineEntry("big", "quarantine/big", None, Hidden.OFFLINE, 1.7e9)
    snapshot = replace(world.snapshot(), store=StoreReading("/models", writable=True, entries=(entry,)))
    document = view(world.policy, replace(world.state, durable=durable), snapshot, {})
    for table, keys in CONTRACT_KEYS.items():
        assert [set(row) for row in rows_at(document, table)[:1]] == [set(keys.split())], table


def assert_presentable(
    policy: Policy, before: State, after: State, decision: Decision, snapshot: Snapshot
) -> None:
    """Events of the contract, one line each; a status of just the contract's keys, every null explained."""
    for event in events(before, after, decision, snapshot):
        assert event.name in EVENT_NAMES
        for line in (
            as_line(event, snapshot.wall),
            as_json(event, snapshot.wall),
            *as_journal(event).values(),
        ):
            assert line.isprintable()
        json.loads(as_json(event, snapshot.wall), parse_constant=pytest.fail)
    document = view(policy, after, snapshot, {"version": "1", "pid": 1, "cpu_seconds": float("nan")})
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    for table, keys in CONTRACT_KEYS.items():
        for row in rows_at(document, table):
            assert set(row) == set(keys.split()), table
    unexplained = [path for path in nulls(document) if not explained(path, document["unknown"])]
    assert not unexplained


def rows_at(document: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """The objects that a status document holds there; none for a null."""
    found: Any = document
    for key in filter(None, table.split(".")):
        found = None if found is None else found[key]
    return found if isinstance(found, list) else [] if found is None else [found]


def nulls(value: object, path: str = "") -> Iterator[str]:
    """The path of every null; a list's items go by their name or pid."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            if (path, key) != ("", "unknown"):
                yield from nulls(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            label = item.get("pid", item.get("name")) if isinstance(item, dict) else item
            yield from nulls(item, f"{path}.{label}")


def explained(path: str, unknown: dict[str, str]) -> bool:
    """Whether a null or what it is in has a reason."""
    return any(unknown[key] for key in unknown if path == key or path.startswith(f"{key}."))


@given(st.integers(1, 600), st.sampled_from([Rung.UNLOAD_IDLE, Rung.KILL_RUNNER]))
def test_two_names_of_one_blob_are_one_victim(idle_seconds: int, rung: Rung) -> None:
    world = World(other=500 * MIB)
    world.load("a:1", 1536 * MIB, aliases=("b:2",))
    world.play(5)
    world.now += idle_seconds / 1000
    if rung is Rung.KILL_RUNNER:
        world.api_silent_since = world.now - 100
    world.hog_rate, world.hog_target = 400 * MIB, 2100 * MIB
    world.play(20)
    acted = [decision for decision in world.decisions if decision.actions]
    assert [len(decision.actions) for decision in acted] == [1]
    assert acted[0].rung is rung
    assert acted[0].actions[0].names == ("a:1", "b:2")
    assert "a:1 = b:2" in acted[0].reason


def assert_kept_as_it_is(ledger: Ledger) -> None:
    """What the ledger takes in can go over the wire and come back."""
    assert from_plain(Ledger, json.loads(json.dumps(to_plain(ledger), allow_nan=False))) == ledger
