"""Promise 5: a silent Ollama keeps neither the tick nor the kill rung from working, on both servers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from beds.clients import StreamingClient
from beds.fake_server import FakeServer
from beds.process import alive
from beds.yard import MIB, Told, Yard, facts, unguarded, yard

# So that silence is noticed within a test's time.
IMPATIENT = 'unresponsive_after = "3s"\npoll = "1s"\nrequest_timeout = "2s"\n'
BLOCKED_SECONDS = 15.0

Silence = Callable[[Yard], contextlib.AbstractContextManager[object]]


@contextlib.contextmanager
def stopped(place: Yard) -> Iterator[None]:
    """The server process is stopped: the kernel still takes connections for it."""
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(place.server.pid, signal.SIGCONT)


@contextlib.contextmanager
def hanging(place: Yard) -> Iterator[None]:
    """It accepts but never answers; answers under way go on.

    The real server can't be made to hang by itself, so there a proxy between the guard and it does.
    """
    if isinstance(place.server, FakeServer):
        place.server.fake.set_fault("hang")
    else:
        assert place.proxy is not None
        place.proxy.hang()
    yield


@contextlib.contextmanager
def blocking_ps(place: Yard) -> Iterator[None]:
    """`/api/ps` waits for 15 s from the next unload on; on the real server the proxy makes it wait."""
    if isinstance(place.server, FakeServer):
        place.server.fake.set_fault("block_ps_on_unload", BLOCKED_SECONDS)
    else:
        assert place.proxy is not None
        place.proxy.block_ps_on_unload(BLOCKED_SECONDS)
    yield


SILENCES: dict[str, Silence] = {"stopped": stopped, "hanging": hanging, "blocking ps": blocking_ps}


def hog_beside_silence(kind: str, silence: str, *, guarded: bool) -> Told:
    """Big idle, mid busy where it can still be served, silence, then a hog that needs what big holds."""
    with (
        yard(kind, 2688 * MIB, guarded=guarded, ollama=IMPATIENT, proxied=kind == "real") as place,
        contextlib.ExitStack() as stack,
    ):
        guard = place.guard
        if silence != "stopped":
            place.server.load("mid")
            client = stack.enter_context(StreamingClient(place.server.url, "mid", 4000))
            assert client.wait_streaming()
        place.server.load("big")
        place.wait_state("big", "idle")
        big = place.pid_of("big")
        stack.enter_context(SILENCES[silence](place))
        said: list[str] = []
        if guard is not None and silence != "blocking ps":
            said.append(guard.wait_event("condition.changed", 30, condition="OllamaUnresponsive")["message"])
        hog = stack.enter_context(place.hog())
        hog.grow(1400 * MIB, 300 * MIB)
        told = {"said": said, "hog finished": hog.wait(20), "oom kills": place.cgroup.oom_kills()}
        if guard is not None:
            guard.wait(lambda: not alive(big), 5, "big is gone")
            guard.wait(lambda: ends(place), 5, "its end is told")
            told["ends"] = ends(place)
            told["evidence"] = place.evidence()
        return told


def ends(place: Yard) -> list[tuple[str, str]]:
    """How which models ended, by the guard's log."""
    assert place.guard is not None
    return [
        (event["event"], event["names"])
        for event in place.guard.events()
        if event["event"] in {"runner.killed", "model.unloaded"}
    ]


@pytest.mark.parametrize("silence", SILENCES)
def test_5_a_silent_api_stops_neither_the_tick_nor_the_kill(kind: str, silence: str) -> None:
    """Stopped or hanging: the condition tells the age of the last answer, and critical kills.

    While `/api/ps` alone is blocked, an unload still goes through and is known to be honoured.
    """
    assert unguarded(hog_beside_silence, kind, silence)["oom kills"] != 0
    told = hog_beside_silence(kind, silence, guarded=True)
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert all("last answer" in sentence for sentence in told["said"]), facts(told)
    end = "model.unloaded" if silence == "blocking ps" else "runner.killed"
    assert told["ends"] == [(end, "big:latest")], facts(told)
