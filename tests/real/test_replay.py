"""What the guard records of a rescue on a real Ollama replays the same, second look and outcomes included."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

from beds.cgroups import MemoryCgroup
from beds.clients import StreamingClient
from beds.handling import term
from beds.ollama_install import Installation
from beds.yard import GIB, MIB, yard


def test_a_kill_at_critical_replays_the_same(
    ollama_installation: Installation, memory_cgroup: Callable[[int], MemoryCgroup]
) -> None:
    """One model idle, two busy, and a hog: the idle one is unloaded, then one runner is killed."""
    assert ollama_installation
    memory_cgroup(64 * MIB)
    with yard("real", 2 * GIB, guarded=True) as place, contextlib.ExitStack() as stack:
        assert place.guard is not None
        for model in ("tiny", "mid", "mid2"):
            place.server.load(model)
        place.wait_state("tiny", "idle")
        for model in ("mid", "mid2"):
            client = stack.enter_context(StreamingClient(place.server.url, model, 4000))
            assert client.wait_streaming()
        hog = stack.enter_context(place.hog())
        hog.grow(1000 * MIB, 400 * MIB)
        place.guard.wait_event("runner.killed", 20)
        time.sleep(2.0)
        term(place.guard)
        done = place.guard.cli("replay", "--json", str(place.guard.state / "traces"), timeout=120)
        told = json.loads(done.stdout)
        assert told["identical"], told
        lines = [
            json.loads(line)
            for path in (place.guard.state / "traces").iterdir()
            for line in path.read_text().splitlines()
        ]
        kills = [line for line in lines if line.get("decision", {}).get("rung") == "kill_runner"]
        assert any(line.get("again") for line in lines), "a second look"
        assert kills
        assert any(line.get("outcome", {}).get("kind") == "done" for line in lines)
