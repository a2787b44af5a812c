"""Promise 5: a silent Ollama keeps neither the tick nor the kill rung from working, on both servers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator

import pytest

from beds.clients import StreamingClient
from beds.fake_server import FakeServer
from beds.guard import AWAY
from beds.http import request
from beds.process import alive
from beds.yard import MIB, Told, Yard, facts, unguarded, yard

# So that silence is noticed within a test's time.
IMPATIENT = 'unresponsive_after = "3s"\npoll = "1s"\nrequest_timeout = "2s"\n'
UNRESPONSIVE_SECONDS = 3.0
BLOCKED_SECONDS = 40.0
# An answer takes milliseconds (seconds).
SILENT_SECONDS = 1.0
# So often the counters of a status are seen to rise; while something is wrong it is posted each half second.
TICKS, TICKS_SECONDS = 2, 10.0
TO_CRITICAL = " to critical"

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
    """`/api/ps` waits for 40 s from the next unload on; on the real server the proxy makes it wait."""
    if isinstance(place.server, FakeServer):
        place.server.fake.set_fault("block_ps_on_unload", BLOCKED_SECONDS)
    else:
        assert place.proxy is not None
        place.proxy.block_ps_on_unload(BLOCKED_SECONDS)
    yield


SILENCES: dict[str, Silence] = {"stopped": stopped, "hanging": hanging, "blocking ps": blocking_ps}


STORIES = (*SILENCES, f"blocking ps{TO_CRITICAL}")


def hog_beside_silence(kind: str, story: str, *, guarded: bool) -> Told:
    """Big idle, mid busy where it can still be served, silence, then a hog that needs what big holds.

    To critical: then also what mid holds, while `/api/ps` is still blocked by the unload of big.
    """
    silence = story.removesuffix(TO_CRITICAL)
    with (
        yard(kind, 2688 * MIB, guarded=guarded, ollama=IMPATIENT, proxied=kind == "real") as place,
        contextlib.ExitStack() as stack,
    ):
        if silence != "stopped":
            place.server.load("mid")
            client = stack.enter_context(StreamingClient(place.server.url, "mid", 4000))
            assert client.wait_streaming()
            place.wait_state("mid", "busy")
        place.server.load("big")
        place.wait_state("big", "idle")
        big = place.pid_of("big")
        stack.enter_context(SILENCES[silence](place))
        told: Told = {}
        if place.guard is not None and silence != "blocking ps":
            told |= told_of_silence(place, complete=True)
        hog = stack.enter_context(place.hog())
        hog.grow(1400 * MIB, 300 * MIB)
        told |= {"hog finished": hog.wait(20), "oom kills": place.cgroup.oom_kills()}
        if place.guard is not None:
            place.guard.wait(lambda: not alive(big), 5, "big is gone")
            place.guard.wait(lambda: ends(place), 5, "its end is told")
            if story.endswith(TO_CRITICAL):
                hog.grow(1400 * MIB + place.cgroup.available() + 100 * MIB, 200 * MIB)
                told |= {"hog finished": hog.wait(20), "oom kills": place.cgroup.oom_kills()}
                place.guard.wait(lambda: len(ends(place)) > 1, 5, "the second end is told")
            told |= {"ends": ends(place), "ps is silent": ps_is_silent(place)}
            if silence == "blocking ps":
                told |= told_of_silence(place, complete=False)
            told["evidence"] = place.evidence()
        return told


def told_of_silence(place: Yard, *, complete: bool) -> Told:
    """The condition's sentence, and how from then on the guard's CPU time rises, which is told after a tick.

    Where silence is ``complete`` the age in that sentence rises too (else `/api/version` answers in between).
    """
    guard = place.guard
    assert guard is not None
    first = guard.wait_event("condition.changed", 30, condition="OllamaUnresponsive", holds=True)["message"]
    counters: list[tuple[float, ...]] = [(0.0, age_in(first)) if complete else (0.0,)]

    def rises() -> bool:
        with contextlib.suppress(*AWAY):
            told = guard.status()
            held = [c["reason"] for c in told["conditions"] if c["condition"] == "OllamaUnresponsive"]
            now = (told["guard"]["cpu_seconds"], *map(age_in, held))[: len(counters[0])]
            if held and all(later > earlier for later, earlier in zip(now, counters[-1], strict=True)):
                counters.append(now)
        return len(counters) > TICKS

    guard.wait(rises, TICKS_SECONDS, "ticks go on")
    return {"said": first, "counters": counters}


def age_in(sentence: str) -> float:
    """Seconds since the last answer, as the condition names them."""
    named = re.search(r"last answer ([0-9.]+) s ago", sentence)
    assert named, sentence
    return float(named[1])


def ps_is_silent(place: Yard) -> bool:
    """Whether a `GET /api/ps` of one's own, where the guard asks, gets no answer."""
    try:
        request((place.proxy or place.server).url, "GET", "/api/ps", timeout=SILENT_SECONDS)
    except TimeoutError:
        return True
    return False


def ends(place: Yard) -> list[tuple[str, str]]:
    """How which models ended, by the guard's log."""
    assert place.guard is not None
    return [
        (event["event"], event["names"])
        for event in place.guard.events()
        if event["event"] in {"runner.killed", "model.unloaded"}
    ]


@pytest.mark.parametrize("story", STORIES)
def test_5_a_silent_api_stops_neither_the_tick_nor_the_kill(kind: str, story: str) -> None:
    """The condition tells the age of the last answer, the tick goes on, and critical kills.

    While `/api/ps` alone is blocked, an unload still goes through and is known to be honoured.
    """
    assert unguarded(hog_beside_silence, kind, story)["oom kills"] != 0
    told = hog_beside_silence(kind, story, guarded=True)
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert told["ps is silent"], facts(told)
    assert age_in(told["said"]) >= UNRESPONSIVE_SECONDS, facts(told)
    assert len(told["counters"]) > TICKS, facts(told)
    if story.startswith("blocking ps"):
        last = [("runner.killed", "mid:latest")] if story.endswith(TO_CRITICAL) else []
        assert told["ends"] == [("model.unloaded", "big:latest"), *last], facts(told)
    else:
        assert told["ends"] == [("runner.killed", "big:latest")], facts(told)
