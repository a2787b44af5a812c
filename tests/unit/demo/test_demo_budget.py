from pathlib import Path

import pytest

from ollama_guard.core.model import Level
from ollama_guard.core.policy import MIB
from ollama_guard.demo import budget
from ollama_guard.demo.stage import POLICY
from ollama_guard.demo.world import Cast, World
from ollama_guard.errors import GuardError
from ollama_guard.sentinel.sensors.host import parse_meminfo
from ollama_guard.settings.compiler import compile_text


def test_a_large_machine_gives_one_gibibyte_and_a_small_one_less() -> None:
    assert budget.choose(64 * 1024 * MIB) == 1024 * MIB
    assert budget.choose(1000 * MIB) == 600 * MIB
    assert budget.choose(656 * MIB) == 256 * MIB


def test_too_little_memory_is_refused_with_what_is_there_and_what_is_needed() -> None:
    with pytest.raises(GuardError) as refused:
        budget.choose(655 * MIB)
    assert str(refused.value) == (
        "this machine has 655 MiB of memory available; the demo needs 656 MiB: 256 MiB to play with, and "
        "400 MiB that it leaves alone"
    )


def test_the_available_memory_is_never_more_than_this_machine_says() -> None:
    available = budget.available_bytes()
    said = parse_meminfo(Path("/proc/meminfo").read_bytes())
    assert said.capacity_bytes is not None
    assert 0 < available <= said.capacity_bytes


def test_the_show_s_policy_is_a_good_file_and_scales_with_the_budget() -> None:
    policy = compile_text(POLICY.format(url="http://127.0.0.1:1", transition_ms=4000), "demo.toml")
    for size in (budget.LEAST_BYTES, budget.MOST_BYTES):
        assert policy.host.bytes_of(Level.SOFT, size) == size // 5
        assert policy.host.bytes_of(Level.HARD, size) == size // 10


def test_the_small_world_has_what_the_actors_leave_and_shows_the_guard_nobody_else(tmp_path: Path) -> None:
    mine = Path("/proc/self").resolve().name
    world = World(tmp_path, 512 * MIB, lambda: Cast({int(mine): "ollama serve"}, {1: "neighbour"}))
    try:
        memory = parse_meminfo((world.proc / "meminfo").read_bytes())
        held = world.latest.used_bytes
        assert held > MIB, "this test itself holds some"
        assert memory.capacity_bytes == 512 * MIB
        assert memory.available_bytes is not None
        assert abs(512 * MIB - held - memory.available_bytes) < 64 * MIB
        seen = {path.name for path in world.proc.iterdir() if path.name.isdecimal()}
        assert seen == {mine}, "no process of this machine but the cast's"
    finally:
        world.close()
