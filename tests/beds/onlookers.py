"""Who looks on while the guard acts: at the memory of a model's runners, and at what Docker did to whom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from beds.cgroups import find_trees
from beds.docker import Container, DockerEngine
from beds.process import argv_of, rss_bytes
from beds.sampling import Sampler

SLEEP = ["/bin/sh", "-c", "exec sleep 100000"]
SAMPLE_SECONDS = 0.05
BY_A_NEW_DAEMON = frozenset({"kill", "die", "stop", "start"})
"""It ends what an old one left, and starts what always restarts."""


class RunnerWatch(Sampler):
    """Samples every 50 ms what the runners of one blob hold, whichever server of the engine started them."""

    def __init__(self, engine: DockerEngine, blob: Path) -> None:
        trees = find_trees()
        tree = trees.v1_memory or trees.v2
        assert tree is not None
        self._place, self._blob = tree / engine.cgroup, blob.name
        self._samples: list[tuple[float, int]] = []
        super().__init__(SAMPLE_SECONDS)

    def most_bytes(self, since: float) -> int:
        """The most that one held since then (time.time())."""
        return max((held for at, held in self._samples if at >= since), default=0)

    def longest_gap_seconds(self, since: float) -> float:
        """The longest time between two samples since then."""
        times = [at for at, _ in self._samples if at >= since]
        return max((b - a for a, b in pairwise(times)), default=float("inf"))

    def look(self) -> None:
        """Sample."""
        self._samples.append((time.time(), max(map(rss_bytes, self._runners()), default=0)))

    def _runners(self) -> list[int]:
        pids: set[int] = set()
        with contextlib.suppress(OSError):
            for procs in self._place.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    pids.update(map(int, procs.read_text().split()))
        return [pid for pid in pids if any(word.endswith(self._blob) for word in argv_of(pid))]


class Neighbour:
    """A container that is none of the guard's business."""

    def __init__(self, engine: DockerEngine, argv: Sequence[str] = SLEEP, **options: Any) -> None:
        self._engine = engine
        self.container: Container = engine.run(argv, name="neighbour", restart="always", **options)
        self._before = self._seen()
        self._since, self._starts = time.time(), engine.starts

    def _seen(self) -> tuple[Any, ...]:
        """Which process it is, since when, and with which limits."""
        state = self.container.state
        return state["Pid"], state["StartedAt"], self.container.limits()

    @property
    def pressure(self) -> Path:
        """The PSI file of its cgroup."""
        tree = find_trees().v2
        assert tree is not None
        return tree / self.container.cgroup.lstrip("/") / "memory.pressure"

    def stalled_seconds(self) -> float:
        """For how long, in all, one of its tasks has stalled for memory (PSI `some`)."""
        some = self.pressure.read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6

    def assert_untouched(self) -> None:
        """Docker did nothing to it, and it is as it was; but a new daemon may have started it anew."""
        done, seen = events_of(self._engine, self.container, self._since), self._seen()
        if self._engine.starts == self._starts:
            assert done == []
            assert seen == self._before
        else:
            assert set(done) <= BY_A_NEW_DAEMON, done
            assert seen[-1] == self._before[-1]
            assert self.container.state["Running"]


def events_of(engine: DockerEngine, container: Container, since: float) -> list[str]:
    """What Docker did to a container since then (time.time()), as `docker events` tells it."""
    # Docker keeps the last 256 of them; without an end it would wait for more.
    with engine.api() as api:
        told: list[dict[str, Any]] = list(
            api.events(since=since, until=time.time(), filters={"container": container.id}, decode=True)
        )
    return [event["Action"] for event in told]
