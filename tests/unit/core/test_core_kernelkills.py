"""Which runners the kernel killed: only the OOM kills that can be theirs give a strike."""

from __future__ import annotations

import pytest

from ollama_guard.core.policy import GIB, MIB, Authority, OllamaPolicy, Policy
from ollama_guard.testing.scenario import World
from ollama_guard.testing.served import Served


def world_of(limit: int | None = None) -> World:
    world = World(
        policy=Policy(ollama=OllamaPolicy(authority=Authority.SERVER)), served=Served(), limit=limit
    )
    world.load("small", 300 * MIB)
    world.play(5)
    return world


def ended(world: World, *, by_kernel: bool = False, neighbours: int = 0) -> None:
    """The runner is gone, beside OOM kills that may be its own or not; then it is asked for again."""
    world.models = []
    world.oom_kills += by_kernel
    world.neighbours_kills += neighbours
    world.play(6)
    world.load("small", 300 * MIB)
    world.play(6)


@pytest.mark.parametrize("limit", [None, 2 * GIB])
def test_a_neighbours_crash_loop_beside_runners_that_end_by_themselves_is_no_strike(
    limit: int | None,
) -> None:
    """The host counts every cgroup's kills: with memory to spare none of them can be Ollama's."""
    world = world_of(limit)
    for _ in range(5):
        ended(world, neighbours=3)
    assert not world.state.durable.strikes
    assert not world.state.durable.condemned
    assert world.model("small")


def test_the_hosts_kills_are_no_strike_in_a_container_that_counts_its_own_even_while_the_host_is_short() -> (
    None
):
    world = world_of(2 * GIB)
    world.other = world.capacity - 900 * MIB
    world.play(1)
    ended(world, neighbours=3)
    assert not world.state.durable.strikes


def test_what_the_kernel_kills_in_its_container_is_a_strike_while_the_host_has_room() -> None:
    world = world_of(2 * GIB)
    ended(world, by_kernel=True)
    (strike,) = world.state.durable.strikes
    assert strike.blob


def test_what_the_kernel_kills_on_a_host_that_is_short_is_a_strike() -> None:
    """Without a container the host's count is all there is."""
    world = world_of()
    model = world.model("small")
    assert model is not None
    model.busy = True
    world.other = world.capacity - 900 * MIB
    world.play(0.4)
    assert world.model("small")
    world.models, world.other = [], 1 * GIB
    world.oom_kills += 1
    world.play(1)
    assert len(world.state.durable.strikes) == 1


def test_a_shortage_that_was_over_before_the_kill_does_not_make_it_the_runners() -> None:
    """The level lingers for a transition; what counts is whether the host was short just then."""
    world = world_of()
    world.other = world.capacity - 900 * MIB
    world.play(1)
    world.other = 1 * GIB
    world.play(10)
    ended(world, neighbours=1)
    assert not world.state.durable.strikes


def test_an_idle_runner_whose_time_was_over_is_no_strike_whatever_the_kernel_killed() -> None:
    world = world_of(2 * GIB)
    world.models[0].expires_at = world.now + 2
    world.play(3)
    ended(world, by_kernel=True)
    assert not world.state.durable.strikes


def test_runners_that_end_with_a_server_that_we_stop_are_no_strike() -> None:
    world = world_of(2 * GIB)
    assert world.served is not None
    world.served.ill, world.served.process_state = True, "T"
    world.play(200, until=lambda w: w.served is not None and not w.served.running)
    world.oom_kills += 1
    world.play(2)
    assert not world.models
    assert not world.state.durable.strikes
