"""Page cache that counts as used is reclaimed for a container that is short, and not soon again."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.model import (
    CONTAINER,
    HOST,
    Action,
    ActionKind,
    Decision,
    DomainReading,
    Mode,
    Outcome,
    OutcomeKind,
    Rung,
    Snapshot,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, OllamaPolicy, Policy
from ollama_guard.core.reclaim import AGAIN_SECONDS
from ollama_guard.core.state import State
from ollama_guard.testing.scenario import World

PATH = "/sys/fs/cgroup/system.slice/ollama.service"


class Short:
    """A container of 2 GiB, below soft for long, in which one model is busy."""

    def __init__(
        self, cache: int | None = 500 * MIB, available: int = 200 * MIB, mode: Mode = Mode.ENFORCE
    ) -> None:
        self.policy = Policy(ollama=OllamaPolicy(mode=mode))
        self.world = World(capacity=16 * GIB, other=2 * GIB, limit=2 * GIB)
        self.world.load("busy", GIB, busy=True)
        self.world.play(5)
        self.state = State()
        self.cache, self.available = cache, available

    def snapshot(self) -> Snapshot:
        """The present, with this much available in the container."""
        seen = self.world.snapshot()
        domains = tuple(
            replace(d, available_bytes=self.available, cache_bytes=self.cache, path=PATH)
            if d.name == CONTAINER
            else d
            for d in seen.domains
        )
        return replace(seen, domains=domains)

    def wait(self, seconds: float) -> list[Decision]:
        """Decide four times a second; what is decided stays in flight."""
        made = []
        for _ in range(int(seconds * 4)):
            self.world.pass_time(0.25)
            before, seen = self.state, self.snapshot()
            self.state, decision = decide(self.policy, before, seen)
            made.append(decision)
        return made

    def end(self, action: Action, kind: OutcomeKind = OutcomeKind.DONE, freed: int = 0) -> None:
        """Tell how it ended."""
        self.state = absorb(self.policy, self.state, Outcome(action.id, kind, self.world.now, freed, "x"))


def reclaims(decisions: list[Decision]) -> list[Action]:
    return [a for decision in decisions for a in decision.actions if a.kind is ActionKind.RECLAIM]


def test_cache_that_counts_as_used_is_asked_for_where_nothing_idle_is_left() -> None:
    made = Short().wait(20)
    (action,) = reclaims(made)
    decision = next(decision for decision in made if decision.actions)
    assert (decision.rung, decision.disruptive) == (Rung.RECLAIM, False)
    assert (action.cgroup, action.domain) == (PATH, CONTAINER)
    assert 0 < action.expected_bytes <= 500 * MIB
    assert "nothing idle is left, reclaim" in decision.reason


def test_it_is_not_tried_again_before_what_is_in_use_is_back() -> None:
    short = Short()
    (action,) = reclaims(short.wait(20))
    short.end(action, OutcomeKind.FAILED)
    assert reclaims(short.wait(AGAIN_SECONDS - 2)) == []
    assert len(reclaims(short.wait(4))) == 1


def test_too_little_cache_or_none_that_can_be_asked_for_is_no_relief() -> None:
    assert reclaims(Short(cache=10 * MIB).wait(20)) == []
    assert reclaims(Short(cache=None).wait(20)) == []


def test_above_soft_nothing_is_reclaimed() -> None:
    assert reclaims(Short(available=GIB).wait(20)) == []


def test_at_critical_a_kill_is_never_put_off_for_it() -> None:
    made = Short(available=20 * MIB).wait(3)
    assert reclaims(made) == []
    assert any(action.kind is ActionKind.KILL for decision in made for action in decision.actions)


def test_one_under_way_does_not_put_off_a_kill_either() -> None:
    short = Short()
    assert len(reclaims(short.wait(20))) == 1
    short.available = 20 * MIB
    assert any(a.kind is ActionKind.KILL for decision in short.wait(2) for a in decision.actions)


def test_idle_models_go_first() -> None:
    short = Short()
    short.world.load("idle", 300 * MIB)
    short.world.play(5)
    kinds = {action.kind for decision in short.wait(20) for action in decision.actions}
    assert ActionKind.UNLOAD in kinds


def test_an_observer_says_what_it_would_have_reclaimed() -> None:
    made = [d for d in Short(mode=Mode.OBSERVE).wait(20) if reclaims([d])]
    assert made
    assert all(decision.would and decision.reason.startswith("would have: ") for decision in made)


def test_what_came_back_is_told() -> None:
    short = Short()
    made = short.wait(20)
    (action,) = reclaims(made)
    before = short.state
    short.end(action, freed=64 * MIB)
    (told,) = [e for e in events(before, short.state, made[-1], short.snapshot()) if "reclaim" in e.message]
    assert (told.name, told.message) == ("memory.reclaimed", "64 MiB of page cache in container reclaimed")


def test_the_host_has_no_cgroup_to_reclaim_from() -> None:
    short = Short(cache=None)
    seen = short.snapshot()
    host = DomainReading(HOST, 16 * GIB, 700 * MIB, path="/", cache_bytes=8 * GIB)
    _, decision = decide(short.policy, short.state, replace(seen, domains=(host,)))
    assert not reclaims([decision])
