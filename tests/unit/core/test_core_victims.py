"""Who goes first: preference, idle before busy, least recently used, the fewest that suffice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core import budgets, cap, victims
from ollama_guard.core.condemned import RECORDS_KEPT, active, after
from ollama_guard.core.model import (
    HOST,
    Action,
    ActionKind,
    Activity,
    Level,
    Outcome,
    OutcomeKind,
    Preference,
    Rung,
    RunnerReading,
)
from ollama_guard.core.policy import GIB, MIB, CapPolicy, ModelRule, Policy, Protect
from ollama_guard.core.runners import Runner, census, rule_for
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Condemned, DomainState, Durable, State, Strike
from ollama_guard.testing.scenario import World, blob_of


def runner(
    name: str,
    mib: int,
    activity: Activity = Activity.IDLE,
    used_at: float = 0.0,
    rule: ModelRule | None = None,
) -> Runner:
    """A runner of so many MiB, last used at a time."""
    pid = 100 + sum(map(ord, name))
    reading = RunnerReading(
        pid, 1, 0.0, 1, proven=True, proof="", blob=blob_of(name), anon_bytes=mib * MIB, domains=(HOST,)
    )
    return Runner(
        reading=reading,
        names=(name,),
        activity=activity,
        rule=rule or ModelRule(),
        foreseen_bytes=None,
        last_used_at=used_at,
        idle_seconds=1.0,
        spell_seconds=None,
    )


def scene(*runners: Runner, world: World | None = None) -> Scene:
    """These runners on a host with an API that answers."""
    return Scene(Policy(), State(), (world or World()).snapshot(), runners)


AVOID, OMIT = ModelRule(Preference.AVOID), ModelRule(Preference.OMIT)
ALWAYS = ModelRule(Preference.OMIT, Protect.ALWAYS)


def names(chosen: list[Runner]) -> list[str]:
    return [one.names[0] for one in chosen]


def test_of_several_servers_models_only_those_that_the_api_means_are_asked_to_go() -> None:
    """It is one server's: what another has loaded, or both have, would not go by its name."""
    world = World()
    for name in ("mine", "shared"):
        world.load(name, 10 * MIB)
    twin = runner("shared", 10)
    twin = replace(twin, reading=replace(twin.reading, pid=7001, server_pid=7000))
    alone = scene(runner("mine", 10), runner("shared", 10), runner("theirs", 10), world=world)
    assert sorted(names(victims.idle(alone, HOST))) == ["mine", "shared", "theirs"]
    servers = (*alone.snapshot.servers, replace(alone.snapshot.servers[0], pid=7000))
    several = replace(
        alone, snapshot=replace(alone.snapshot, servers=servers), runners=(*alone.runners, twin)
    )
    assert names(victims.idle(several, HOST)) == ["mine"]


def test_idle_ones_come_least_recently_used_first_with_avoid_last_and_omit_never() -> None:
    seen = scene(
        runner("new", 10, used_at=9),
        runner("old", 10, used_at=1),
        runner("kept", 10, used_at=0, rule=AVOID),
        runner("vip", 10, used_at=0, rule=OMIT),
        runner("busy", 10, Activity.BUSY),
        runner("empty", 0),
    )
    assert names(victims.idle(seen, HOST)) == ["old", "new", "kept"]


def test_one_that_suffices_alone_goes_alone() -> None:
    candidates = [runner("a", 100), runner("b", 700), runner("c", 900)]
    assert names(victims.fewest(candidates, 600 * MIB)) == ["b"]


def test_where_none_suffices_alone_the_fewest_go() -> None:
    candidates = [runner("a", 100), runner("b", 300), runner("c", 500)]
    assert names(victims.fewest(candidates, 700 * MIB)) == ["c", "b"]


def test_an_avoided_one_goes_only_if_the_others_fall_short() -> None:
    candidates = [runner("a", 100), runner("b", 200), runner("kept", 900, rule=AVOID)]
    assert names(victims.fewest(candidates, 300 * MIB)) == ["b", "a"]
    assert names(victims.fewest(candidates, 301 * MIB)) == ["a", "b", "kept"]


@pytest.mark.parametrize(
    ("others", "dies"),
    [
        ([runner("idle", 500), runner("busy", 900, Activity.BUSY)], "idle"),
        ([runner("load", 500, Activity.LOADING), runner("busy", 900, Activity.BUSY)], "load"),
        ([runner("busy", 500, Activity.BUSY), runner("kept", 900, Activity.BUSY, rule=AVOID)], "busy"),
        ([runner("kept", 500, Activity.BUSY, rule=AVOID), runner("vip", 900, rule=OMIT)], "kept"),
        ([runner("vip", 500, rule=OMIT), runner("never", 900, rule=ALWAYS)], "vip"),
        ([runner("a", 500, Activity.BUSY), runner("b", 450, Activity.BUSY, used_at=-1)], "b"),
    ],
)
def test_the_least_harm_that_suffices_dies(others: list[Runner], dies: str) -> None:
    seen = scene(*others)
    victim = victims.to_kill(seen, seen.snapshot.domains[0], 400 * MIB, 400 * MIB)
    assert victim is not None
    assert victim.names == (dies,)


def test_who_may_never_be_touched_is_not_even_killed_when_alone() -> None:
    seen = scene(runner("never", 900, rule=ALWAYS))
    assert victims.to_kill(seen, seen.snapshot.domains[0], 400 * MIB, 1) is None


def test_an_omitted_one_lives_while_any_other_could_give_something() -> None:
    seen = scene(runner("small", 20, Activity.BUSY), runner("vip", 900, rule=OMIT))
    victim = victims.to_kill(seen, seen.snapshot.domains[0], 400 * MIB, 400 * MIB)
    assert victim is not None
    assert victim.names == ("small",)


def test_a_runner_without_a_name_gets_the_strictest_rule_of_all() -> None:
    policy = Policy(models={"a": AVOID, "vip": ALWAYS})
    assert rule_for(policy, ()) == ALWAYS
    assert rule_for(policy, ("a:latest",)) == AVOID
    assert rule_for(Policy(), ()) == ModelRule()


def test_a_process_that_waits_for_the_disk_is_not_idle() -> None:
    """It takes no CPU, and yet it is at work."""
    world = World()
    world.load("a", 300 * MIB)
    world.play(5)
    snapshot = world.snapshot()
    (idle,) = census(world.policy, world.state, snapshot)
    waiting = replace(snapshot, runners=(replace(snapshot.runners[0], process_state="D"),))
    (busy,) = census(world.policy, world.state, waiting)
    assert (idle.activity, busy.activity) == (Activity.IDLE, Activity.BUSY)


# ---- budgets


def kill(number: int = 1, rung: Rung = Rung.KILL_RUNNER, name: str = "a", needs: int = GIB) -> Action:
    return Action(number, ActionKind.KILL, rung, 110.0, blob_of(name), name, (name,), 7, 7, needs_bytes=needs)


@pytest.mark.parametrize(
    ("kind", "freed", "counted"),
    [
        (OutcomeKind.DONE, 0, 1),
        (OutcomeKind.FAILED, 0, 1),
        (OutcomeKind.DONE, 1, 0),
        (OutcomeKind.SKIPPED, 0, 0),
    ],
)
def test_only_kills_that_freed_nothing_count_against_the_budget(
    kind: OutcomeKind, freed: int, counted: int
) -> None:
    assert len(budgets.after((), kill(), Outcome(1, kind, 100.0, freed))) == counted


def test_the_pause_after_fruitless_kills_doubles_until_the_budget_is_spent() -> None:
    world = World(limit=2 * GIB)
    container = world.snapshot().domains[1]
    said = []
    for spent in range(7):
        durable = Durable(fruitless_kills=(world.now,) * spent)
        said.append(budgets.refusal(Scene(Policy(), State(durable=durable), world.snapshot(), ()), container))
    assert said[0] == ""
    assert [text.rsplit(" in ")[-1] for text in said[1:6]] == ["2.0 s", "4.0 s", "8.0 s", "16 s", "32 s"]
    assert "budget" in said[6]
    later = replace(world.snapshot(), now=world.now + 3600.0)
    state = State(durable=Durable(fruitless_kills=(world.now,) * 6))
    assert budgets.refusal(Scene(Policy(), state, later, ()), container) == ""


def test_no_budget_holds_at_host_critical() -> None:
    world = World()
    state = State(
        durable=Durable(fruitless_kills=(world.now,) * 2000),
        domains={HOST: DomainState(urgent=Level.CRITICAL)},
    )
    assert budgets.refusal(Scene(Policy(), state, world.snapshot(), ()), world.snapshot().domains[0]) == ""


# ---- condemned


def test_a_second_strike_within_ten_minutes_condemns_and_a_later_one_does_not() -> None:
    policy = Policy()
    for gap, condemned in ((599.0, True), (601.0, False)):
        durable = after(Durable(), kill(), Outcome(1, OutcomeKind.DONE, 1000.0, MIB), policy)
        durable = after(durable, kill(2), Outcome(2, OutcomeKind.DONE, 1000.0 + gap, MIB), policy)
        assert (active(durable, blob_of("a"), 1000.0 + gap) is not None) is condemned


def test_the_term_doubles_up_to_a_day() -> None:
    policy, now, durable, terms = Policy(), 0.0, Durable(), []
    for number in range(22):
        durable = after(durable, kill(number), Outcome(number, OutcomeKind.DONE, now, MIB), policy)
        if durable.condemned and durable.condemned[0].since_at == now:
            terms.append(durable.condemned[0].term_seconds)
            now = durable.condemned[0].until_at
        now += 1.0
    assert terms[:4] == [600.0, 1200.0, 2400.0, 4800.0]
    assert max(terms) == 86400.0


def test_what_must_survive_stays_small_however_many_blobs_misbehave() -> None:
    durable = Durable(strikes=tuple(Strike(f"sha256:{n}", 0.0) for n in range(5000)))
    for number in range(200):
        for _ in range(2):
            durable = after(
                durable, kill(name=f"m{number}"), Outcome(1, OutcomeKind.DONE, 1.0, MIB), Policy()
            )
    assert len(durable.condemned) == RECORDS_KEPT
    assert len(durable.strikes) <= RECORDS_KEPT
    assert durable.condemned[-1].blob == blob_of("m199")


def test_an_unload_or_a_failed_kill_is_no_strike() -> None:
    failed = Outcome(1, OutcomeKind.FAILED, 100.0)
    unload = replace(kill(), kind=ActionKind.UNLOAD, rung=Rung.UNLOAD_IDLE)
    assert after(Durable(), kill(), failed, Policy()) == Durable()
    assert after(Durable(), unload, Outcome(1, OutcomeKind.DONE, 100.0, MIB), Policy()) == Durable()


def test_a_condemned_blob_that_the_owner_protects_is_not_killed_at_birth_though_unnamed_yet() -> None:
    """After a restart the catalogue is missing, but the record knows the names."""
    world = World(policy=Policy(models={"a": OMIT}))
    record = Condemned(blob_of("a"), ("a:latest",), 0.0, world.now + 600, 600.0, 100 * GIB)
    world.state = State(durable=Durable(condemned=(record,)))
    world.load("a", 300 * MIB, loaded=False)
    world.catalogue.clear()
    world.play(1)
    assert world.model("a")


# ---- cap


@pytest.mark.parametrize("soft_max", [-3, 0, 1])
def test_the_cap_is_never_below_one(soft_max: int) -> None:
    assert cap.effective(Policy(cap=CapPolicy(soft_max)), State()) == 1


def test_the_owners_bound_and_the_learned_one_both_hold() -> None:
    assert cap.effective(Policy(cap=CapPolicy(3)), State(soft_cap=2)) == 2
    assert cap.effective(Policy(cap=CapPolicy(3)), State(soft_cap=5)) == 3
    assert cap.effective(Policy(), State()) is None
