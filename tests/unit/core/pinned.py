"""Machines on which clients keep their models for ever, and memory is short."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core.events import Event
from ollama_guard.core.model import Decision, Level
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.testing.scenario import World

FOR_EVER_SECONDS = 292 * 365 * 86400.0
STEP_SECONDS = 0.5


def pinned(policy: Policy | None = None) -> World:
    """A machine on which two clients keep their models for ever; both have had nothing to do for a minute."""
    world = World(capacity=16 * GIB, other=1 * GIB, policy=policy or Policy())
    for name in ("chat", "code"):
        world.load(name, 400 * MIB).expires_at = world.now + FOR_EVER_SECONDS
    world.play(60)
    return world


def shorten(world: World, level: Level = Level.SOFT) -> World:
    """Memory is at a level from now on, though there is nothing in it that the ladder would have to do.

    So it is once relief has brought enough: a level is held for a transition, and here for as long as wanted.
    """
    held = replace(world.state.domains["host"], level=level, since_at=world.now)
    world.state = replace(world.state, level=level, domains={"host": held})
    return world.with_policy(transition_seconds=3600.0)


def live(world: World, seconds: float) -> tuple[list[Event], list[Decision]]:
    """Let time go by, a tick each half second, and tell what was logged and decided."""
    told: list[Event] = []
    made: list[Decision] = []
    until = world.now + seconds
    while world.now < until:
        before = world.state
        world.settle()
        decision, seen = world.tick(), world.snapshot()
        told += events(before, world.state, decision, seen)
        made.append(decision)
        world.pass_time(STEP_SECONDS)
    return told, made


def gone_after(world: World, name: str, seconds: float = 400.0) -> float | None:
    """Seconds until a model is gone, None if it stays."""
    began = world.now
    while world.now - began < seconds:
        live(world, STEP_SECONDS)
        if world.model(name) is None:
            return world.now - began
    return None
