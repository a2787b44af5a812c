"""What the stories of this tier share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from beds.cgroups import MemoryCgroup
from beds.ollama_install import Installation
from beds.yard import MIB


@pytest.fixture(params=["real", "fake"])
def kind(
    request: pytest.FixtureRequest,
    ollama_installation: Installation,
    memory_cgroup: Callable[[int], MemoryCgroup],
) -> str:
    """Which Ollama: 0.5.4 itself, or the fake in the dialect since 0.30; gives up where no bed can be had."""
    assert ollama_installation
    memory_cgroup(64 * MIB)
    return str(request.param)
