"""The real proxy over a real Ollama, with the real guard beside them, while memory falls and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Self

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.guard import Guard
from beds.hog import Hog
from beds.litellm_install import LitellmInstallation
from beds.litellm_proxy import Answer, LitellmProxy
from beds.ollama_install import Installation
from beds.server import RealServer
from beds.yard import GIB, MIB
from ollama_guard.core.tiers import Tier
from ollama_guard.integrations.config import MODEL_NAMES, render

TIERS = (Tier("light", "tiny"), Tier("default", "mid"), Tier("reasoning", "big"))
ASKED = MODEL_NAMES["reasoning"]
# Quiet is a minute by default; here the ladder may go up again after so many seconds.
TRANSITION_SECONDS = 5
CONFIG = f'[policy]\ntransition = "{TRANSITION_SECONDS}s"\n' + "\n".join(
    f'[[tiers]]\nname = "{tier.name}"\nmodel = "{tier.model}"' for tier in TIERS
)
# What leaves room for tiny (240 MiB) and for neither of the others (700 and 1,500 MiB): 700 MiB, with hard at
# 246 and soft at 461. And so fast that the middle one has no time to be let in on the way: beside it, while
# it is at work, tiny's loads are aborted until it is condemned.
HOG_BYTES, HOG_BYTES_PER_SECOND = 2300 * MIB, 1000 * MIB
PATIENCE_SECONDS = 120.0


class Asking:
    """A client that asks again and again; nothing that it asks may hang."""

    def __init__(self, proxy: LitellmProxy) -> None:
        self.answers: list[Answer] = []
        self.failures: list[BaseException] = []
        self._proxy, self._over = proxy, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.2):
            try:
                self.answers.append(self._proxy.chat(ASKED, max_tokens=4, timeout=PATIENCE_SECONDS))
            except OSError as problem:
                self.failures.append(problem)

    def wait(self, served_by: set[str], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until an answer comes from one of these ("": the guard had no say), or fail."""
        seen, deadline = len(self.answers), time.monotonic() + seconds
        while not any(each.status == 200 and each.served_by in served_by for each in self.answers[seen:]):
            told = [(each.status, each.served_by) for each in self.answers[seen:]][-10:]
            assert time.monotonic() < deadline, f"not served by {served_by}: {told} {self.failures}"
            time.sleep(0.1)


@pytest.fixture
def room(memory_cgroup: Callable[[int], MemoryCgroup]) -> MemoryCgroup:
    """3 GiB for all but the proxy."""
    return memory_cgroup(3 * GIB)


@pytest.fixture
def litellm(
    own_litellm: LitellmInstallation | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]
) -> LitellmInstallation:
    """The installation."""
    if isinstance(own_litellm, BedUnavailable):
        give_up(own_litellm)
    return own_litellm


@pytest.fixture
def story(
    room: MemoryCgroup, ollama_installation: Installation, litellm: LitellmInstallation, tmp_path: Path
) -> Iterator[tuple[Guard, LitellmProxy, RealServer]]:
    """All of them, with the large model loaded."""
    with ExitStack() as stack:
        server = stack.enter_context(RealServer(ollama_installation, launcher=room.popen))
        guard = stack.enter_context(Guard(server.url, cgroup=f"/{room.name}", config=CONFIG, home=tmp_path))
        guard.wait_guarding(server.pid)
        status = guard.runtime / "status.sock"
        proxy = stack.enter_context(LitellmProxy(litellm, render(TIERS, server.url), tmp_path, status))
        server.load("big")
        yield guard, proxy, server


def test_answers_come_from_smaller_models_while_memory_is_short_and_climb_again(
    story: tuple[Guard, LitellmProxy, RealServer], room: MemoryCgroup
) -> None:
    """Nobody hangs, and the kernel kills nobody; with the guard stopped LiteLLM serves what is asked for."""
    guard, proxy, _ = story
    with Hog(room.popen) as hog, Asking(proxy) as client:
        client.wait({"big:latest"})
        hog.grow(HOG_BYTES, HOG_BYTES_PER_SECOND)
        client.wait({"tiny:latest"})
        assert hog.wait(60)
        hog.release()
        client.wait({"big:latest"})
        guard.stop()
        client.wait({""})
    assert client.failures == []
    assert {answer.status for answer in client.answers} <= {200, 503}
    assert room.oom_kills() == 0
