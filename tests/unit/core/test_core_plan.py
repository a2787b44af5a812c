"""What each step of a playbook is said to do here is what it does here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_guard.core.decide import decide
from ollama_guard.core.model import ActionKind, Rung
from ollama_guard.core.plan import view
from ollama_guard.core.policy import (
    GIB,
    MIB,
    Authority,
    OllamaPolicy,
    Policy,
    QuarantineAction,
    QuarantinePolicy,
)
from ollama_guard.testing.scenario import World
from ollama_guard.testing.served import Served

POLICY = Policy(ollama=OllamaPolicy(authority=Authority.SERVER))


def world_of(policy: Policy = POLICY, **runtime: Any) -> World:
    """Four GiB, a model that fits and one that never can."""
    served = Served()
    served.reading = replace(served.reading, **runtime)
    world = World(policy=policy, served=served)
    world.load("huge", 8 * GIB)
    world.models = []
    world.load("tiny", 300 * MIB)
    return world


def steps(world: World) -> list[tuple[str, str, str]]:
    """The freeze playbook as (step, what, note)."""
    snapshot = world.snapshot()
    state, _ = decide(world.policy, world.state, snapshot)
    (freeze,) = (row for row in view(world.policy, state, snapshot)["playbooks"] if row["name"] == "freeze")
    return [(step["step"], step["what"], step["note"] or "") for step in freeze["steps"]]


def what(world: World, step: str) -> str:
    return next(told for name, told, _ in steps(world) if name == step)


def test_lines_and_limits_are_told_as_they_will_be_set() -> None:
    assert what(world_of(), "constrain") == (
        "constrain ollama.service: OLLAMA_MAX_LOADED_MODELS=1 OLLAMA_NUM_PARALLEL=1 OLLAMA_KEEP_ALIVE=30s "
        "OLLAMA_MAX_QUEUE=64 LLAMA_ARG_CACHE_RAM=256, memory 3.0 GiB, at most 2 CPUs"
    )


def test_no_lines_are_told_where_they_would_not_be_read() -> None:
    told = what(world_of(constrainable=False), "constrain")
    assert "OLLAMA_" not in told
    assert "does not read the environment file" in told
    assert "memory 3.0 GiB" in told


@pytest.mark.parametrize(
    ("runtime", "text"),
    [
        ({"memory_limit_bytes": 1 * GIB}, "memory stays at 1.0 GiB"),
        ({"memory_limit_bytes": 8 * GIB}, "memory 3.0 GiB"),
        # The guard's own limit holds already: the owner's is the one before it.
        ({"memory_limit_bytes": 3 * GIB, "owners_limit_bytes": 2 * GIB}, "memory stays at 2.0 GiB"),
        ({"memory_limit_bytes": 2 * GIB, "owners_limit_bytes": 0}, "memory 3.0 GiB"),
        ({"verbs": ("stop", "start")}, "no live limits"),
    ],
)
def test_a_limit_of_its_owner_is_not_told_to_be_loosened(runtime: dict[str, Any], text: str) -> None:
    assert text in what(world_of(**runtime), "constrain")


@pytest.mark.parametrize("writable", [True, False])
def test_hiding_is_told_where_it_comes_and_how(*, writable: bool) -> None:
    """By renaming before the start, by the API after it; in the order that the run itself takes."""
    world = world_of()
    assert world.served is not None
    world.served.writable = writable
    told = [name for name, _, _ in steps(world) if name not in ("kill_server", "reopen")]
    how = "by renaming its manifests" if writable else "by Ollama's API"
    assert f"hide huge {how}, which needs" in what(world, "quarantine")
    notes = [note for name, _, note in steps(world) if name == "quarantine"]
    assert notes == ([""] if writable else ["it gets no memory from the stop on, whoever asks for it"])
    world.play(5)
    world.served.ill, world.served.process_state = True, "T"
    world.play(200)
    done = [a.kind for a in world.served.done if a.rung is Rung.PLAYBOOK]
    assert told == [kind.value for kind in done]
    assert ActionKind.QUARANTINE in done


def test_a_store_that_nobody_has_looked_at_yet_is_told_as_not_known() -> None:
    world = world_of()
    snapshot = replace(world.snapshot(), store=replace(world.snapshot().store, read_at=0.0, writable=False))
    state, _ = decide(world.policy, world.state, snapshot)
    (step,) = (
        s for s in view(world.policy, state, snapshot)["playbooks"][0]["steps"] if s["step"] == "quarantine"
    )
    assert step["note"] == "where its manifests lie is not known yet"


def test_deleting_is_told_as_deleting() -> None:
    policy = replace(POLICY, quarantine=QuarantinePolicy(action=QuarantineAction.DELETE))
    assert what(world_of(policy), "quarantine").startswith("delete huge")
