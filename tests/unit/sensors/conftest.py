"""Fixtures of the sensors' tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ollama_guard.core.policy import Policy
from unit.sensors.sensor_tree import Tree, Watcher


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty machine with 16 GiB, 8 of them available, and a v2 cgroup tree."""
    return Tree(tmp_path)


@pytest.fixture
def watch(tree: Tree) -> Iterator[Callable[..., Watcher]]:
    """Start sensors over the tree."""
    started: list[Watcher] = []

    def start(policy: Policy | None = None) -> Watcher:
        started.append(Watcher(tree, policy or Policy()))
        return started[-1]

    yield start
    for watcher in started:
        watcher.sensors.close()
