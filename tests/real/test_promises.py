"""Promises 1 to 3, on a real Ollama and on the fake's newer dialect, in a memory-limited cgroup.

Each story is told twice in one test: with the guard off the promise must fail, with it on it must hold.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from beds.clients import SPEED_UP, STEADY_SPEED_UP, RetryClient, StreamingClient
from beds.cpu_quota import LONG_ANSWER_CORE, cpu_quota
from beds.guard import Guard
from beds.handling import kept, term
from beds.process import alive
from beds.yard import GIB, MIB, Told, Watch, Yard, facts, unguarded, yard

# Bytes that big takes once loaded, as foreseen (file + KV cache of 2048 tokens).
BIG_FORESEEN = 1500 * MIB
# A kill too many would follow the first within two ticks at critical: this is ample (seconds).
AFTERMATH_SECONDS = 2.0
# More than tiny holds: whatever the hog's speed just then, tiny alone can't reach the target.
MORE_THAN_TINY = '[policy]\nmin_reclaim = "256MiB"\n'


def hog_beside_an_answer(kind: str, *, guarded: bool, long_answer: bool = False) -> Told:
    """Big idle, tiny busy with a long answer, a hog that needs what big holds."""
    limit, (seconds, speed_up) = 2560 * MIB, ((300.0, STEADY_SPEED_UP) if long_answer else (7.0, SPEED_UP))
    with yard(kind, limit, guarded=guarded) as place, contextlib.ExitStack() as stack:
        place.server.load("big")
        if long_answer and kind == "real":
            place.server.load("tiny")
            stack.enter_context(cpu_quota(place.pid_of("tiny"), LONG_ANSWER_CORE))
        with (
            StreamingClient.lasting(place.server.url, "tiny", seconds, speed_up=speed_up) as client,
            place.hog() as hog,
            Watch(place) as watch,
        ):
            assert client.wait_streaming()
            place.wait_state("big", "idle")
            hog.grow(1200 * MIB, 300 * MIB)
            grown = hog.wait(30)
            answer = client.wait(seconds * 6) if guarded else client.answer
            return {
                "hog finished": grown,
                "answer finished": answer.finished,
                "oom kills": place.cgroup.oom_kills(),
                "loaded": place.loaded(),
                "least available": watch.least_available,
                "unloaded": place.guard and place.guard.wait_event("model.unloaded", 5.0)["names"],
                "evidence": place.evidence(),
            }


def test_1_the_idle_model_goes_before_hard_and_the_answer_runs_on(kind: str, long_answer: bool) -> None:  # noqa: FBT001
    """A hog fills the cgroup: the idle model goes before `hard`, the answer ends, nobody is OOM-killed."""
    assert unguarded(hog_beside_an_answer, kind)["oom kills"] != 0
    told = hog_beside_an_answer(kind, guarded=True, long_answer=long_answer)
    hard = 2560 * MIB * 8 // 100
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert told["answer finished"], facts(told)
    assert told["loaded"] == {"tiny"}, facts(told)
    assert told["unloaded"] == "big:latest", facts(told)
    assert told["least available"] >= hard, facts(told)


def load_that_cannot_fit(kind: str, *, guarded: bool, soak: bool = False) -> Told:
    """Tiny idle; a client asks once a second for big, which the cgroup can't hold."""
    with yard(kind, 1 * GIB, guarded=guarded) as place:
        place.server.load("tiny")
        place.wait_state("tiny", "idle")
        tiny = place.server.runner_pids()["tiny"]
        with Watch(place, model="big") as watch, RetryClient(place.server.url, "big") as client:
            began = time.monotonic()
            while not (killed_at_birth(place) if guarded else place.cgroup.oom_kills()):
                assert time.monotonic() - began < 20, place.evidence()
                time.sleep(0.1)
            if soak:
                time.sleep(300)
            attempts = client.stop()
        told = {
            "oom kills": place.cgroup.oom_kills(),
            "most resident": watch.most_resident,
            "statuses": {attempt.status for attempt in attempts},
            "tiny lives": alive(tiny),
            "silences": watch.failed_versions,
            "aborted": place.guard and {event["names"] for event in place.guard.events("load.aborted")},
            "condemned": place.guard and len(place.guard.events("blob.condemned")),
            "evidence": place.evidence(),
        }
        return told | (verdict_on_big(place.guard) if place.guard else {})


def verdict_on_big(guard: Guard) -> Told:
    """What the guard foresaw, and how often it aborted big before big was condemned; it ends the guard.

    Only then its log is complete, since it holds repeats back; what was killed at birth is in its state file.
    """
    term(guard)
    (record,) = kept(guard).condemned
    aborts = guard.events("load.aborted", names="big:latest")
    condemned = guard.events("blob.condemned")[0]
    return {
        "aborts before": sum(1 + event.get("repeated", 0) for event in aborts) - record.kills,
        "foreseen": condemned["needs_bytes"],
        "most given back": max(event["freed_bytes"] for event in aborts),
    }


def killed_at_birth(place: Yard) -> bool:
    """Whether a runner was killed for no other reason than that its blob is condemned."""
    assert place.guard is not None
    return any(record["kills"] >= 3 for record in place.guard.status()["condemned"])


def test_2_a_load_that_cannot_fit_is_aborted_early_and_condemned(kind: str, soak: bool) -> None:  # noqa: FBT001
    """Aborted at 30 % of its size at most, condemned by the second abort; a client retries each second."""
    assert unguarded(load_that_cannot_fit, kind)["oom kills"] != 0
    told = load_that_cannot_fit(kind, guarded=True, soak=soak)
    assert told["oom kills"] == 0, facts(told)
    assert told["foreseen"] == pytest.approx(BIG_FORESEEN, rel=0.1), facts(told)
    assert 0 < told["most resident"] <= 0.3 * told["foreseen"], facts(told)
    assert told["most given back"] <= 0.3 * told["foreseen"], facts(told)
    assert told["aborts before"] == 2, facts(told)
    assert told["tiny lives"], facts(told)
    assert told["silences"] == 0, facts(told)
    assert told["statuses"] == {500}, facts(told)
    assert told["condemned"] == 1, facts(told)
    assert told["aborted"] == {"big:latest"}, facts(told)


def everything_busy(kind: str, *, guarded: bool) -> Told:
    """Mid, mid2 and tiny all answer while a hog takes the rest and more."""
    models = ("tiny", "mid", "mid2")
    with (
        yard(kind, 2 * GIB, guarded=guarded, config=MORE_THAN_TINY) as place,
        contextlib.ExitStack() as stack,
    ):
        for model in models:
            place.server.load(model)
        clients = {
            model: stack.enter_context(StreamingClient(place.server.url, model, 4000)) for model in models
        }
        for model, client in clients.items():
            assert client.wait_streaming()
            place.wait_state(model, "busy")
        hog = stack.enter_context(place.hog())
        watch = stack.enter_context(Watch(place))
        hog.grow(850 * MIB, 400 * MIB)
        grown = hog.wait(20)
        time.sleep(AFTERMATH_SECONDS if guarded else 0.0)

        def listed() -> set[str]:
            return {entry["name"] for entry in place.server.get("/api/ps")["models"]}

        if place.guard is not None:  # a list of after the death comes first, then the guard's request
            left = {f"{model}:latest" for model in place.loaded()}
            place.guard.wait(lambda: listed() == left, 30.0, "the killed one is listed no more")
        kills = place.guard.events("decision.made", rung="kill_runner") if place.guard else []
        return {
            "hog finished": grown,
            "oom kills": place.cgroup.oom_kills(),
            "loaded": place.loaded(),
            "silences": watch.failed_versions,
            "cut": {model for model, client in clients.items() if client.answer.error},
            "killed": place.guard and [event["names"] for event in place.guard.events("runner.killed")],
            "levels": [event["level"] for event in kills],
            "listed": listed(),
            "evidence": place.evidence(),
        }


def test_3_when_all_are_busy_exactly_one_runner_dies(kind: str) -> None:
    """At critical one runner dies: the least that reaches the target; the server answers throughout.

    Of the two that would do each is in use just now and as large as the other: either may be the one.
    """
    assert unguarded(everything_busy, kind)["oom kills"] != 0
    told = everything_busy(kind, guarded=True)
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert told["levels"] == ["critical"], facts(told)
    assert told["killed"] in (["mid:latest"], ["mid2:latest"]), facts(
        told
    )  # tiny is too small for the target
    (victim,) = (name.removesuffix(":latest") for name in told["killed"])
    assert told["loaded"] == {"tiny", "mid", "mid2"} - {victim}, facts(told)
    assert told["cut"] == {victim}, facts(told)
    # The server goes on listing one that was killed until it is asked to unload it.
    assert told["listed"] == {f"{name}:latest" for name in told["loaded"]}, facts(told)
    assert told["silences"] == 0, facts(told)
