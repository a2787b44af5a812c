"""The second look: a disruptive step is taken only if two looks in a row agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ollama_guard.core.model import (
    HOST,
    ApiReading,
    CatalogueEntry,
    DomainReading,
    Level,
    Mode,
    OutcomeKind,
    Request,
    RunnerReading,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import GIB, MIB, GovernorPolicy, OllamaPolicy, Policy
from ollama_guard.core.state import Durable
from ollama_guard.sentinel.mind import Mind, Told
from ollama_guard.sentinel.sensors import Fact
from ollama_guard.testing.scenario import World


def runner(pid: int) -> RunnerReading:
    return RunnerReading(
        pid, pid * 10, 100.0, 50, proven=True, proof="a child", blob=f"sha256:{pid:064x}", anon_bytes=GIB,
        shmem_bytes=0, file_bytes=0, swap_bytes=0, cpu_seconds=1.0,
    )  # fmt: skip


def view(available: int, *runners: RunnerReading) -> Snapshot:
    server = ServerReading(50, 1, 0, "/", "a test")
    return Snapshot(500.0, 1.7e9, (DomainReading(HOST, 4 * GIB, available),), (server,), runners)


class ScriptedSenses:  # its methods are described by the protocol `Senses`
    """Shows one prepared snapshot after the other; the last one stays."""

    def __init__(self, *views: Snapshot) -> None:
        self.views = list(views)
        self.looks = 0

    def sense(
        self,
        now: float,
        wall: float,
        api: ApiReading,
        catalogue: tuple[CatalogueEntry, ...],
        requests: tuple[Request, ...],
        hands_alive: bool,  # noqa: FBT001 - the protocol's
        hands_reason: str,
    ) -> Snapshot:
        """The next prepared snapshot."""
        del now, wall, api, catalogue, hands_reason
        self.looks += 1
        shown = self.views.pop(0) if len(self.views) > 1 else self.views[0]
        return replace(shown, now=500.0 + self.looks / 100, requests=requests, hands_alive=hands_alive)

    def glance(self, now: float) -> Glance:
        """What the next prepared snapshot says of memory."""
        del now
        return Glance.of(self.views[0])

    def births(self, now: float, *, recovering: bool) -> bool:
        """Not needed here."""
        raise NotImplementedError

    def fds(self) -> Mapping[int, int]:
        """Not needed here."""
        raise NotImplementedError

    def on_ready(self, fd: int, events: int) -> None:
        """Not needed here."""
        raise NotImplementedError

    def still_the_same(self, pid: int, expected: RunnerReading) -> str:
        """Not needed here."""
        raise NotImplementedError

    def still_the_server(self, pid: int, expected: ServerReading) -> str:
        """Not needed here."""
        raise NotImplementedError

    def capabilities(self) -> tuple[Fact, ...]:
        """Not needed here."""
        raise NotImplementedError

    def reconfigure(self, policy: Policy) -> None:
        """Not needed here."""
        raise NotImplementedError

    def close(self) -> None:
        """Not needed here."""
        raise NotImplementedError


def test_calm_takes_one_look() -> None:
    senses = ScriptedSenses(view(3 * GIB, runner(7)))
    decision, wavered = Mind(Policy(), Durable(), senses).think(Told(), ())
    assert (decision.actions, wavered, senses.looks) == ((), [], 1)


def test_a_kill_that_both_looks_want_stands() -> None:
    senses = ScriptedSenses(view(50 * MIB, runner(7)))
    mind = Mind(Policy(), Durable(), senses)
    decision, wavered = mind.think(Told(), ())
    assert [action.pid for action in decision.actions] == [7]
    assert (wavered, senses.looks) == ([], 2)
    assert mind.state.in_flight == decision.actions


def test_a_kill_that_the_second_look_does_not_want_is_not_done_and_said() -> None:
    senses = ScriptedSenses(view(50 * MIB, runner(7)), view(3 * GIB, runner(7)))
    mind = Mind(Policy(), Durable(), senses)
    decision, wavered = mind.think(Told(), ())
    assert decision.actions == ()
    assert mind.state.in_flight == ()
    assert wavered[0].name == "decision.held"
    assert "changed its mind" in wavered[0].message


def test_another_victim_at_the_second_look_needs_a_third_that_agrees() -> None:
    senses = ScriptedSenses(view(50 * MIB, runner(7)), view(50 * MIB, runner(8)))
    decision, wavered = Mind(Policy(), Durable(), senses).think(Told(), ())
    assert [action.pid for action in decision.actions] == [8]
    assert (len(wavered), senses.looks) == (1, 3)


def test_looks_that_never_agree_do_nothing_and_leave_nothing_in_flight() -> None:
    senses = ScriptedSenses(*(view(50 * MIB, runner(pid)) for pid in (7, 8, 9)))
    mind = Mind(Policy(), Durable(), senses)
    decision, _ = mind.think(Told(), ())
    assert decision.actions == ()
    assert mind.state.in_flight == ()
    assert mind.state.finished[-1][1].kind is OutcomeKind.SKIPPED
    assert mind.state.durable.fruitless_kills == ()


def test_an_observer_takes_one_look_and_has_nothing_in_flight() -> None:
    senses = ScriptedSenses(view(50 * MIB, runner(7)))
    mind = Mind(Policy(ollama=OllamaPolicy(mode=Mode.OBSERVE)), Durable(), senses)
    decision, _ = mind.think(Told(), ())
    assert (decision.would, senses.looks, mind.state.in_flight) == (True, 1, ())


def test_what_happened_is_told_once() -> None:
    mind = Mind(Policy(), Durable(), ScriptedSenses(view(50 * MIB, runner(7))))
    decision, _ = mind.think(Told(), ())
    names = [event.name for event in mind.narrate(decision)]
    assert "decision.made" in names
    assert "level.changed" in names
    decision, _ = mind.think(Told(), ())
    assert "level.changed" not in [event.name for event in mind.narrate(decision)]


def rested(*later: Snapshot) -> Mind:
    """A mind that has watched an idle runner for eleven seconds; then this is to be seen."""
    times = [replace(view(3 * GIB, runner(7)), now=500.0 + second) for second in range(12)]
    mind = Mind(Policy(), Durable(), ClockedSenses(*times, *later))
    for _ in times:
        mind.think(Told(alive=True), ())
    return mind


class ClockedSenses(ScriptedSenses):
    """Each prepared snapshot has its own time, and API that has just answered."""

    def sense(self, *args: Any) -> Snapshot:
        """The next prepared snapshot."""
        shown = self.views.pop(0) if len(self.views) > 1 else self.views[0]
        return replace(shown, hands_alive=args[5], api=ApiReading(answered_at=shown.now))


def test_a_mind_at_rest_says_when_to_glance_again_and_what_ends_its_rest() -> None:
    assert (
        Mind(Policy(), Durable(), ScriptedSenses(view(3 * GIB))).look_seconds(500.0, glancing=True)
        == math.inf
    )
    same = rested()
    assert same.look_seconds(511.2, glancing=False) == same.look_seconds(511.2, glancing=True) < 1
    assert rested(view(2 * GIB, runner(7))).look_seconds(511.2, glancing=False) > 0
    assert rested(view(2 * GIB, runner(7))).look_seconds(511.2, glancing=True) == 0
    at_work = replace(runner(7), cpu_seconds=1.2)
    assert rested(view(3 * GIB, at_work)).look_seconds(511.2, glancing=True) == 0
    assert rested(view(3 * GIB)).look_seconds(511.2, glancing=True) == 0


def test_what_the_governor_lets_go_is_looked_at_twice_and_let_be_if_it_is_asked_for_meanwhile() -> None:
    """Nothing presses for it; so a model that began to work between the looks is not touched."""
    for works, gone in ((False, [101]), (True, [])):
        world = World(capacity=16 * GIB, now=400.0)
        world.load("chat", 400 * MIB).expires_at = 1e10
        world.play(65)
        level = replace(world.state.domains[HOST], level=Level.SOFT)
        world.state = replace(world.state, level=Level.SOFT, domains={HOST: level})
        world.with_policy(transition_seconds=3600.0, governor=GovernorPolicy(max_keep_alive_seconds=3600.0))
        world.play(499.5 - world.now)
        idle = world.snapshot()
        busy = replace(idle, runners=tuple(replace(r, cpu_seconds=0.5) for r in idle.runners))
        senses = ScriptedSenses(idle, busy if works else idle)
        mind = Mind(replace(world.policy, governor=GovernorPolicy()), Durable(), senses)
        mind.state = world.state
        decision, wavered = mind.think(Told(alive=True), ())
        assert [action.pid for action in decision.actions] == gone
        assert (senses.looks, len(wavered)) == (2, int(works))
