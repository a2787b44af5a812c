"""The promises, shown on a real Ollama and on the fake's newer dialect, in a memory-limited cgroup.

Each story is told twice in one test: with the guard off the promise must fail, with it on it must hold.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import pytest

from beds.cgroups import MemoryCgroup
from beds.clients import RetryClient, StreamingClient
from beds.decoys import Decoy, TcpProxy
from beds.fake_server import FakeServer
from beds.ollama_install import Installation
from beds.process import alive
from beds.yard import GIB, MIB, Watch, Yard, yard

MakeCgroup = Callable[[int], MemoryCgroup]

# Bytes that each model of the shelf takes once loaded, as foreseen (file + KV cache of 2048 tokens).
BIG_FORESEEN = 1500 * MIB


@pytest.fixture(params=["real", "fake"])
def kind(request: pytest.FixtureRequest, ollama_installation: Installation, memory_cgroup: MakeCgroup) -> str:
    """Which Ollama: 0.5.4 itself, or the fake in the dialect since 0.30; gives up where no bed can be had."""
    assert ollama_installation
    memory_cgroup(64 * MIB)
    return str(request.param)


def hog_beside_an_answer(kind: str, *, guarded: bool, soak: bool) -> tuple[Yard, dict[str, object]]:
    """Big idle, tiny busy with a long answer, a hog that needs what big holds."""
    limit, seconds = 2560 * MIB, (300.0 if soak else 7.0)
    with yard(kind, limit, guarded=guarded) as place:
        place.server.load("big")
        with (
            StreamingClient.lasting(place.server.url, "tiny", seconds) as client,
            place.hog() as hog,
            Watch(place) as watch,
        ):
            assert client.wait_streaming()
            place.wait_state("big", "idle")
            killed = place.cgroup.oom_kills()
            hog.grow(1200 * MIB, 300 * MIB)
            grown = hog.wait(30)
            answer = client.wait(seconds * 6) if guarded else client.answer
            told: dict[str, object] = {
                "hog finished": grown,
                "answer finished": answer.finished,
                "oom kills": place.cgroup.oom_kills() - killed,
                "loaded": place.loaded(),
                "least available": watch.least_available,
            }
            if place.guard is not None:
                told["unloaded"] = place.guard.wait_event("model.unloaded", 5.0)
                told["log"] = place.guard.tail()
    return place, told


def test_1_the_idle_model_goes_before_hard_and_the_answer_runs_on(kind: str, soak: bool) -> None:  # noqa: FBT001
    """A hog fills the cgroup: the idle model goes before `hard`, the answer ends, nobody is OOM-killed."""
    _, off = hog_beside_an_answer(kind, guarded=False, soak=False)
    assert off["oom kills"] != 0
    _, told = hog_beside_an_answer(kind, guarded=True, soak=soak)
    hard = 2560 * MIB * 8 // 100
    assert told["oom kills"] == 0, told
    assert told["hog finished"], told
    assert told["answer finished"], told
    assert told["loaded"] == {"tiny"}, told
    assert told["least available"] >= hard, told


def load_that_cannot_fit(kind: str, *, guarded: bool, seconds: float) -> dict[str, object]:
    """Tiny idle; a client asks once a second for big, which the cgroup can't hold."""
    with yard(kind, 1 * GIB, guarded=guarded) as place:
        place.server.load("tiny")
        place.wait_state("tiny", "idle")
        tiny = place.server.runner_pids()["tiny"]
        with Watch(place, model="big") as watch, RetryClient(place.server.url, "big") as client:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and (guarded or not place.cgroup.oom_kills()):
                time.sleep(0.2)
            attempts = client.stop()
        told: dict[str, object] = {
            "oom kills": place.cgroup.oom_kills(),
            "most resident": watch.most_resident,
            "statuses": {attempt.status for attempt in attempts},
            "attempts": len(attempts),
            "tiny lives": alive(tiny),
            "silences": watch.failed_versions,
        }
        if place.guard is not None:
            told["aborted"] = place.guard.events("load.aborted")
            told["condemned"] = place.guard.status()["condemned"]
            told["events"] = place.guard.events("blob.condemned")
            told["log"] = place.guard.tail()
    return told


def test_2_a_load_that_cannot_fit_is_aborted_early_and_condemned(kind: str, soak: bool) -> None:  # noqa: FBT001
    """Aborted at no more than 30 % of its foreseen size, while a client retries every second."""
    off = load_that_cannot_fit(kind, guarded=False, seconds=20)
    assert off["oom kills"] != 0
    told = load_that_cannot_fit(kind, guarded=True, seconds=300 if soak else 10)
    assert told["oom kills"] == 0, told
    assert 0 < told["most resident"] <= 0.3 * BIG_FORESEEN, told  # type: ignore[operator]
    assert told["tiny lives"], told
    assert told["silences"] == 0, told
    assert told["statuses"] == {500}, told
    assert len(told["events"]) == 1, told  # type: ignore[arg-type]
    (record,) = told["condemned"]  # type: ignore[misc]
    assert record["kills"] >= 3, told
    assert {tuple(event["names"].split(", ")) for event in told["aborted"]} == {("big:latest",)}, told  # type: ignore[attr-defined]


def everything_busy(kind: str, *, guarded: bool) -> dict[str, object]:
    """Mid, mid2 and tiny all answer while a hog takes the rest and more."""
    with yard(kind, 2 * GIB, guarded=guarded) as place, contextlib.ExitStack() as stack:
        clients = {}
        for model in ("tiny", "mid", "mid2"):
            place.server.load(model)
        for model in ("tiny", "mid", "mid2"):
            clients[model] = stack.enter_context(StreamingClient(place.server.url, model, 4000))
        for client in clients.values():
            assert client.wait_streaming()
        time.sleep(0.5)
        hog = stack.enter_context(place.hog())
        watch = stack.enter_context(Watch(place))
        hog.grow(850 * MIB, 400 * MIB)
        grown = hog.wait(20)
        time.sleep(3.0)
        told: dict[str, object] = {
            "hog finished": grown,
            "oom kills": place.cgroup.oom_kills(),
            "loaded": place.loaded(),
            "silences": watch.failed_versions,
            "cut": {model for model, client in clients.items() if client.answer.error},
        }
        if place.guard is not None:
            told["killed"] = place.guard.events("runner.killed")
            told["log"] = place.guard.tail()
    return told


def test_3_when_all_are_busy_exactly_one_runner_dies(kind: str) -> None:
    """At critical one runner dies: the least that reaches the target; the server answers throughout."""
    off = everything_busy(kind, guarded=False)
    assert off["oom kills"] != 0
    told = everything_busy(kind, guarded=True)
    assert told["oom kills"] == 0, told
    assert told["hog finished"], told
    assert len(told["killed"]) == 1, told  # type: ignore[arg-type]
    assert len(told["loaded"]) == 2, told  # type: ignore[arg-type]
    assert "tiny" in told["loaded"], told  # type: ignore[operator]  # too small to reach the target
    assert len(told["cut"]) == 1, told  # type: ignore[arg-type]
    assert told["silences"] == 0, told


def test_4_a_soft_cap_of_one_keeps_one(kind: str) -> None:
    """Three models asked for in turn: never more than one stays; without the guard all three do."""
    models = ("tiny", "tiny2", "tiny3")
    with yard(kind, 2 * GIB, guarded=False) as place:
        for model in models:
            place.server.load(model)
        assert place.loaded() == set(models)
    with yard(kind, 2 * GIB, guarded=True, config="[cap]\nsoft_max = 1\n") as place:
        for model in models:
            place.server.load(model)
            assert place.wait_loaded({model}, 10), place.guard and place.guard.tail()
        with Watch(place) as watch:
            time.sleep(2.5)
        assert watch.most_runners == 1


def test_4_an_omit_model_stays_and_the_others_make_room(kind: str) -> None:
    config = '[cap]\nsoft_max = 1\n[models."tiny"]\npreference = "omit"\n'
    with yard(kind, 2 * GIB, guarded=True, config=config) as place:
        place.server.load("tiny")
        for model in ("tiny2", "tiny3"):
            place.server.load(model)
            assert place.loaded() >= {"tiny", model}
            assert place.wait_loaded({"tiny"}, 10), place.guard and place.guard.tail()


def test_5_a_frozen_server_is_told_and_the_kill_rung_still_works(kind: str) -> None:
    """SIGSTOP: the tick goes on, the condition says the age of the last answer, critical still kills."""
    slow = 'unresponsive_after = "3s"\npoll = "1s"\nrequest_timeout = "2s"\n'
    for guarded in (False, True):
        with yard(kind, 2560 * MIB, guarded=guarded, ollama=slow) as place, place.hog() as hog:
            place.server.load("big")
            place.wait_state("big", "idle")
            os.kill(place.server.pid, signal.SIGSTOP)
            try:
                if place.guard is not None:
                    event = place.guard.wait_event("condition.changed", 30, condition="OllamaUnresponsive")
                    assert "last answer" in event["message"]
                    held = {c["condition"] for c in place.guard.status()["conditions"]}
                    assert "OllamaUnresponsive" in held
                before = place.cgroup.oom_kills()
                hog.grow(1400 * MIB, 300 * MIB)
                grown = hog.wait(20)
                if place.guard is not None:
                    assert grown, place.guard.tail()
                    assert place.cgroup.oom_kills() == before, place.guard.tail()
                    killed = place.guard.wait_event("runner.killed", 5)
                    assert killed["names"] == "big:latest"
                else:
                    assert place.cgroup.oom_kills() > before
            finally:
                os.kill(place.server.pid, signal.SIGCONT)


def test_6_a_restarted_server_is_found_and_strangers_are_left_alone(kind: str) -> None:
    """A new PID is found within 2 s; a user's own llama-server and the port's proxy are never touched."""
    with yard(kind, 2 * GIB, guarded=True) as place, contextlib.ExitStack() as stack:
        guard = place.guard
        assert guard is not None
        place.server.load("tiny")
        stranger = stack.enter_context(
            Decoy.llama_server(place.server.blob("mid"), memory_bytes=600 * MIB, launcher=place.cgroup.popen)
        )
        proxy = stack.enter_context(TcpProxy(place.server.port, launcher=place.cgroup.popen))
        old = place.server.pid
        place.server.stop()
        guard.wait_event("ollama.lost", 5, pid=old)
        place.server.start()
        began = time.monotonic()
        guard.wait(lambda: guard.events("ollama.found", pid=place.server.pid), 5, "the new server is found")
        assert time.monotonic() - began <= 2.0
        place.server.load("mid")
        place.wait_state("mid", "idle")
        hog = stack.enter_context(place.hog())
        hog.grow(1100 * MIB, 300 * MIB)
        guard.wait(lambda: "mid" not in place.loaded(), 15, "mid is given up")
        assert stranger.alive
        assert proxy.alive
        assert {model["pid"] for model in guard.status()["models"]}.isdisjoint({stranger.pid, proxy.pid})


def test_8_two_names_of_one_blob_are_one_victim(kind: str) -> None:
    """One runner, one victim, one line that names both."""
    with yard(kind, 1 * GIB, guarded=True) as place, place.hog() as hog:
        guard = place.guard
        assert guard is not None
        place.server.load("tiny")
        place.server.load("tiny-alias")
        (model,) = guard.status()["models"]
        assert {model["name"], *model["aliases"]} == {"tiny:latest", "tiny-alias:latest"}
        place.wait_state(model["name"].removesuffix(":latest"), "idle")
        hog.grow(700 * MIB, 300 * MIB)
        event = guard.wait_event("model.unloaded", 20)
        assert set(event["names"].split(", ")) == {"tiny:latest", "tiny-alias:latest"}
        assert len(guard.events("model.unloaded")) == 1


def test_10_a_killed_guard_comes_back_as_it_was(kind: str) -> None:
    """Kill -9 of the sentinel: pause, condemned blobs and budgets are as they were."""
    with yard(kind, 1 * GIB, guarded=True) as place:
        guard = place.guard
        assert guard is not None
        with RetryClient(place.server.url, "big"):
            guard.wait_event("blob.condemned", 30)
            time.sleep(1.5)
        paused = guard.cli("pause", "10m")
        assert paused.returncode == 0, paused.stderr
        before = guard.status()
        assert before["mode"] == "paused"
        guard.kill()
        guard.start()
        guard.wait_guarding(place.server.pid)
        after = guard.status()
        assert after["mode"] == "paused"
        assert [c["blob"] for c in after["condemned"]] == [c["blob"] for c in before["condemned"]]
        assert abs(after["condemned"][0]["until"] - before["condemned"][0]["until"]) < 1.0
        assert after["condemned"][0]["kills"] == before["condemned"][0]["kills"]
        assert guard.cli("resume").returncode == 0
        assert guard.status()["mode"] == "enforce"


@pytest.mark.parametrize("fault", ["hang", "block_ps_on_unload"])
def test_5_a_silent_api_does_not_stop_the_tick(memory_cgroup: MakeCgroup, fault: str) -> None:
    """It accepts but never answers, or `/api/ps` blocks for 15 s during an unload: critical still kills."""
    memory_cgroup(64 * MIB)
    slow = 'unresponsive_after = "3s"\npoll = "1s"\nrequest_timeout = "2s"\n'
    with yard("fake", 2560 * MIB, guarded=True, ollama=slow) as place, place.hog() as hog:
        guard, server = place.guard, place.server
        assert guard is not None
        assert isinstance(server, FakeServer)
        for model in ("mid", "big"):
            server.load(model)
        client = StreamingClient(server.url, "mid", 4000)
        with client:
            assert client.wait_streaming()
            place.wait_state("big", "idle")
            server.fake.set_fault(fault, 15.0)
            if fault == "hang":
                event = guard.wait_event("condition.changed", 10, condition="OllamaUnresponsive")
                assert "last answer" in event["message"]
            hog.grow(1400 * MIB, 300 * MIB)
            assert hog.wait(20), guard.tail()
            guard.wait(lambda: "big" not in place.loaded(), 10, "big is gone")
            assert place.cgroup.oom_kills() == 0, guard.tail()
            assert "mid" in place.loaded(), guard.tail()
            killed = [event["names"] for event in guard.events("runner.killed")]
            assert killed == (["big:latest"] if fault == "hang" else []), guard.tail()
