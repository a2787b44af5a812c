"""The keep_alive governor end to end: the real guard over a fake Ollama of either dialect."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.hog import Hog
from beds.yard import MIB
from ollama_guard.testing.fake import Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")

LIMIT_BYTES = 896 * MIB
# Below soft in such a container (256 MiB), well above hard (128 MiB), so slowly that nobody forecasts it.
SHORT_BYTES = 225 * MIB
SLOW_BYTES_PER_SECOND = 60 * MIB
# What the ladder takes is loaded first: it is the longest unused, and suffices alone.
MODELS = ("spare=200MiB", "chat=40MiB", "code=40MiB", "talk=40MiB", "mine=40MiB")
NAMES = [model.partition("=")[0] for model in MODELS]
CONFIG = '[thresholds.container]\ngrace = "1s"\n[models."mine"]\npreference = "omit"\n'
GOVERNOR = '[governor]\nmax_keep_alive = "8s"\n'
PING_SECONDS = 2.0
# In which it is all over, and again until another would be let go; a busy machine gets more.
STORY_SECONDS = 24.0
PATIENCE_SECONDS = 90.0
AFTERWARDS_SECONDS = 10.0


@dataclass
class Place:
    """A container in which five clients keep their models for ever."""

    cgroup: MemoryCgroup
    server: FakeServer
    guard: Guard
    hog: Hog
    talking: Stream

    def shorten(self) -> None:
        """Have the hog take what brings the container below soft."""
        self.hog.grow(self.cgroup.available() - SHORT_BYTES, SLOW_BYTES_PER_SECOND)

    def ping(self, model: str, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Pin a model anew every two seconds by an empty prompt, as some clients do; ``until`` ends it."""
        over = time.monotonic() + seconds
        while time.monotonic() < over and not until():
            self.server.load(model, keep_alive=-1)
            time.sleep(PING_SECONDS)

    def loaded(self) -> set[str]:
        """Whose runner lives."""
        return set(self.server.runner_pids())


def place_of(stack: ExitStack, dialect: str, home: Path, config: str) -> Place:
    """All five are loaded, and one of them is in the middle of a long answer."""
    cgroup = stack.enter_context(MemoryCgroup(LIMIT_BYTES, "governed"))
    server = stack.enter_context(FakeServer(cgroup.join_paths, MODELS, dialect=dialect))
    guard = stack.enter_context(Guard(server.url, cgroup=f"/{cgroup.name}", home=home, config=config))
    guard.wait_guarding(server.pid)
    for name in NAMES:
        server.load(name, keep_alive=-1)
    talking = server.fake.stream("talk", tokens=4000)
    wanted = dict.fromkeys(NAMES, "idle") | {"talk": "busy"}
    guard.wait(lambda: guard.model_states() == wanted, 30, f"the states are {wanted}")
    return Place(cgroup, server, guard, stack.enter_context(Hog(cgroup.popen)), talking)


@pytest.fixture(params=["new", "old"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Which API the fake speaks."""
    return str(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is left at the end, also by a bed that can't be had here."""
    with ExitStack() as stack:
        try:
            yield stack
        except BedUnavailable as problem:
            pytest.skip(str(problem))


def test_of_five_that_are_kept_for_ever_goes_who_is_not_asked_for(
    dialect: str, stack: ExitStack, tmp_path: Path
) -> None:
    """Not the one that answers, nor the one that is pinned anew all the time, nor the one of ``omit``."""
    place = place_of(stack, dialect, tmp_path, CONFIG + GOVERNOR)
    born = set(place.server.runner_pids().values())
    place.shorten()
    place.ping("code", PATIENCE_SECONDS, until=lambda: "chat" not in place.loaded())
    place.ping("code", AFTERWARDS_SECONDS)
    guard, evidence = place.guard, place.guard.tail()
    assert place.loaded() == {"code", "talk", "mine"}, evidence
    assert set(place.server.runner_pids().values()) <= born, evidence
    assert place.talking.error == "", evidence
    assert not place.talking.finished
    (let_go,) = guard.events("decision.made", rung="keep_alive")
    assert let_go["names"] == "chat:latest"
    assert let_go["message"].startswith("container is at soft, "), let_go
    assert "at most 8.0 s now, else kept for ever" in let_go["message"], let_go
    capped = [event["names"] for event in guard.events("keepalive.capped")]
    assert sorted(capped) == ["chat:latest", "code:latest", "spare:latest", "talk:latest"], evidence
    assert [event["names"] for event in guard.events("model.unloaded")] == ["spare:latest", "chat:latest"]
    assert not guard.events("action.failed"), evidence


@pytest.mark.parametrize(
    ("config", "stayed"),
    [
        (CONFIG + GOVERNOR + "enabled = false\n", {"chat", "code", "talk", "mine"}),
        (CONFIG + GOVERNOR + '[policy]\nmode = "observe"\n', set(NAMES)),
    ],
    ids=["switched off", "observing"],
)
def test_without_it_they_stay_all_but_the_one_that_suffices_and_with_an_observer_all(
    config: str, stayed: set[str], stack: ExitStack, tmp_path: Path
) -> None:
    """The control, and the word of who only watches."""
    place = place_of(stack, "new", tmp_path, config)
    place.shorten()
    place.ping("code", STORY_SECONDS)
    guard = place.guard
    assert place.loaded() == stayed, guard.tail()
    assert not guard.events("keepalive.capped")
    assert not guard.events("decision.made", rung="keep_alive", would=None)
