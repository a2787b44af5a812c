"""The second item of a diagnosis besides a process that stands still: OOM kills, and unloads without effect.

Each story ends with a silent server that only waits. That alone would be a freeze after a minute and a half;
with the item it is one as soon as the silence is sure.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_guard.core.model import ActionKind, Request
from ollama_guard.core.policy import GIB, MIB, Authority, OllamaPolicy, PlaybookPolicy, Policy
from ollama_guard.testing.scenario import World, blob_of
from ollama_guard.testing.served import Served

# Seconds: silence is sure after some 45, and a server that only waits is taken for frozen after 90.
SURE_SECONDS = 70.0


def world_of(**playbook: float) -> World:
    """Four GiB with a container of two, an idle model, a server that its owner lets the guard stop."""
    policy = Policy(
        ollama=OllamaPolicy(authority=Authority.SERVER),
        playbook=replace(PlaybookPolicy(), **playbook),  # type: ignore[arg-type]  # names checked by dataclasses
    )
    world = World(policy=policy, served=Served(), limit=2 * GIB)
    world.load("tiny", 300 * MIB)
    world.play(5)
    return world


def kernel_kills(world: World, times: int) -> None:
    """A client asks for what can't fit in the container, and the kernel kills its runner, so many times."""
    for _ in range(times):
        loading = world.load("greedy", 1900 * MIB, loaded=False)
        loading.foreseen = 100 * MIB
        world.catalogue["greedy"] = replace(world.catalogue["greedy"], size_bytes=100 * MIB)
        world.play(0.3)
        world.models = [model for model in world.models if model.name != "greedy"]
        world.oom_kills += 1
        world.play(8)


def silence(world: World) -> list[ActionKind]:
    """The server answers nothing and only waits; what is done to it until that is sure."""
    assert world.served is not None
    before = len(world.decisions)
    world.served.ill = True
    world.play(SURE_SECONDS)
    acted = [d for d in world.decisions[before:] if not d.would]
    return [a.kind for d in acted for a in d.actions]


@pytest.mark.parametrize(("times", "frozen"), [(0, False), (2, False), (3, True)])
def test_a_silent_api_after_repeated_oom_kills_is_a_freeze(times: int, frozen: bool) -> None:  # noqa: FBT001
    """Two may be one big neighbour and one of ours."""
    world = world_of()
    kernel_kills(world, times)
    assert (ActionKind.STOP in silence(world)) is frozen
    assert len(world.state.durable.runs) == frozen


def test_oom_kills_under_a_limit_that_the_guard_set_condemn_and_start_no_playbook() -> None:
    """They say that the limit works."""
    world = world_of(quiet_seconds=3600.0)
    assert world.served is not None
    world.served.ill, world.served.process_state = True, "T"
    world.play(300)
    assert world.served.running
    assert world.state.durable.constrained is not None
    kernel_kills(world, 3)
    assert blob_of("greedy") in {record.blob for record in world.state.durable.condemned}
    assert ActionKind.STOP not in silence(world)
    assert len(world.state.durable.runs) == 1


@pytest.mark.parametrize("honoured", [True, False])
def test_a_silent_api_after_an_unload_that_was_accepted_and_never_honoured_is_a_freeze(
    *, honoured: bool
) -> None:
    world = world_of()
    model = world.model("tiny")
    assert model is not None
    model.honours_unload = honoured
    world.requests = (Request(7, "unload", "tiny"),)
    world.play(15)
    assert (world.model("tiny") is None) is honoured
    assert (ActionKind.STOP in silence(world)) is not honoured
