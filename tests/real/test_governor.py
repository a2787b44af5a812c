"""Issue 5: a model that a client keeps for ever goes while memory is short, and none is loaded for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from beds.cgroups import MemoryCgroup
from beds.clients import StreamingClient
from beds.http import request
from beds.process import alive
from beds.sampling import Sampler
from beds.server import Server, start_server
from beds.yard import GIB, MIB, Told, facts, unguarded, yard
from ollama_guard.hands.adapters.ollama import OllamaAdapter

# Below soft in a container of 1 GiB (256 MiB), by so little that one of two models suffices, and so slowly
# that nobody forecasts hard, at which times are shorter.
SHORT_BYTES = 244 * MIB
SLOW_BYTES_PER_SECOND = 60 * MIB
GRACE = '[thresholds.container]\ngrace = "2s"\n'
# Shorter than as delivered, so that the story is.
QUICK = GRACE + '[governor]\nmax_keep_alive = "10s"\n'
SWITCHED_OFF = GRACE + "[governor]\nenabled = false\n"
# Until it is looked who stayed: grace, time, and as much again; for one that is awaited, more.
STORY_SECONDS = 25.0
PATIENCE_SECONDS = 90.0
# Longer than the story: an answer that is not at its end, and one that is cut, can be told apart.
ANSWER_SECONDS = PATIENCE_SECONDS
ALIVE_SECONDS = 5.0
LOOK_SECONDS = 0.05
CALL_SECONDS = 30.0


class Births(Sampler):
    """Every runner that was ever seen, by the number of its process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.pids: set[int] = set()
        super().__init__(LOOK_SECONDS)

    def look(self) -> None:
        """Note who is there."""
        self.pids |= set(self._server.runner_pids().values())


def kept_for_ever(kind: str, config: str = "", *, guarded: bool) -> Told:
    """One model in an answer, two without work, all three pinned by their clients; then comes a hog."""
    with yard(kind, 1 * GIB, guarded=guarded, config=config) as place, place.hog() as hog:
        for model in ("tiny", "tiny2", "tiny3"):
            place.server.load(model, keep_alive=-1)
        with (
            StreamingClient.lasting(place.server.url, "tiny", ANSWER_SECONDS) as client,
            Births(place.server) as births,
        ):
            client.wait_streaming()
            place.wait_state("tiny3", "idle")
            began = time.monotonic()
            hog.grow(place.cgroup.available() - SHORT_BYTES, SLOW_BYTES_PER_SECOND)
            place.wait_count(1, PATIENCE_SECONDS if config == QUICK else STORY_SECONDS)
            took = time.monotonic() - began
            stayed, seen = place.loaded(), client.answer.chunks
            client.wait(ALIVE_SECONDS)
            answer = client.answer
        guard = place.guard
        return {
            "stayed": stayed,
            "answer": answer.summary(),
            "answer goes on": answer.error is None and (answer.finished or answer.chunks > seen),
            "oom kills": place.cgroup.oom_kills(),
            "births": len(births.pids),
            "seconds": took,
            "capped": guard and {event["names"].split(":")[0] for event in guard.events("keepalive.capped")},
            "let go": guard and [e["names"] for e in guard.events("decision.made", rung="keep_alive")],
            "unloaded": guard and sorted(event["names"] for event in guard.events("model.unloaded")),
            "failed": guard and guard.events("action.failed"),
            "evidence": place.evidence(),
        }


def test_a_model_that_is_kept_for_ever_goes_while_memory_is_short_and_one_that_answers_stays(
    kind: str,
) -> None:
    """Of two idle ones the ladder takes the one that suffices, the governor the other when its time is over.

    Without a guard both stay for ever, with the governor switched off one of them does. Nothing is loaded.
    """
    off = unguarded(kept_for_ever, kind)
    assert off["stayed"] == {"tiny", "tiny2", "tiny3"}, facts(off)
    ungoverned = kept_for_ever(kind, SWITCHED_OFF, guarded=True)
    assert len(ungoverned["stayed"] - {"tiny"}) == 1, facts(ungoverned)
    assert not ungoverned["capped"], facts(ungoverned)
    told = kept_for_ever(kind, QUICK, guarded=True)
    assert told["stayed"] == {"tiny"}, facts(told)
    assert told["answer goes on"], facts(told)
    assert told["oom kills"] == 0, facts(told)
    assert told["births"] == 3, facts(told)  # the three that their clients loaded
    assert {"tiny2", "tiny3"} <= told["capped"], facts(told)
    assert len(told["let go"]) == 1, facts(told)
    assert len(told["unloaded"]) == 2, facts(told)
    assert not told["failed"], facts(told)


def touch(server: Server, model: str) -> None:
    """The other call that would bound it: an empty prompt with another keep_alive."""
    request(server.url, "POST", "/api/generate", {"model": model, "keep_alive": "30s"}, timeout=120.0)


def test_the_call_that_would_shorten_a_keep_alive_loads_a_model_and_an_unload_never_does(
    kind: str, memory_cgroup: Callable[[int], MemoryCgroup]
) -> None:
    """Why the guard counts the time itself: neither that it has gone, nor its options, can be ruled out."""
    with start_server(kind, memory_cgroup(1 * GIB)) as server, Births(server) as births:
        adapter = OllamaAdapter(server.url)
        server.load("tiny", keep_alive=-1, options={"num_ctx": 1024})
        first = server.runner_pids()["tiny"]
        touch(server, "tiny")
        second = server.runner_pids()["tiny"]
        assert first != second, "another context: the runner was ended and the model loaded anew"
        assert adapter.unload("tiny", CALL_SECONDS) == "unload"
        wait_gone(second)
        touch(server, "tiny")
        third = server.runner_pids()["tiny"]
        assert third not in (first, second), "gone: the model was loaded"
        assert adapter.unload("tiny", CALL_SECONDS) == "unload"
        wait_gone(third)
        born = len(births.pids)
        for _ in range(3):
            assert adapter.unload("tiny", CALL_SECONDS) == "unload"
        time.sleep(1.0)
        assert not server.runner_pids()
        assert len(births.pids) == born == 3


def wait_gone(pid: int) -> None:
    """Wait until a process has ended."""
    deadline = time.monotonic() + CALL_SECONDS
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)
