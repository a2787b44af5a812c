"""Promise 9: a whole 4 GiB machine without swap, with the guard as its only protection, on both servers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.clients import SPEED_UP, STEADY_SPEED_UP, StreamingClient
from beds.cpu_quota import LONG_ANSWER_CORE, cpu_quota
from beds.fake_server import LaunchedFake
from beds.guard import Guard
from beds.hog import Hog
from beds.ollama_install import Installation, install
from beds.process import alive
from beds.server import RealServer
from beds.smallhost import SmallHost
from beds.yard import GIB, MIB, Told, facts, unguarded

MEMORY = 4 * GIB
NEIGHBOUR = 300 * MIB
JOB = 2700 * MIB
HEAD_START = 1200 * MIB

RATES = {"150MiB/s": 150 * MIB, "1500MiB/s": 1500 * MIB}


def server_inside(host: SmallHost, kind: str) -> RealServer | LaunchedFake:
    """0.5.4 itself, or the fake in the dialect since 0.30."""
    if kind == "fake":
        return LaunchedFake(host.popen)
    return RealServer(install(), launcher=host.popen)


def job_beside_ollama(kind: str, pace: str, *, guarded: bool, long_answer: bool = False) -> Told:
    """Tiny busy with a long answer, big idle, a neighbour, and a job that grows to 2.7 GiB."""
    rate = RATES[pace]
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(SmallHost(MEMORY))
        server = stack.enter_context(server_inside(host, kind))
        neighbour = stack.enter_context(Hog(host.popen))
        neighbour.grow(NEIGHBOUR, GIB)
        assert neighbour.wait(10)
        guard = None
        if guarded:
            guard = stack.enter_context(Guard(server.url, cgroup="", launcher=host.popen))
            guard.wait_guarding(host.inner_pid(server.pid))
        server.load("big")
        # The answer outlasts the job: an idle model is fair game, and tiny is idle once it has answered.
        seconds = 300.0 if long_answer else 9.0 + (JOB - HEAD_START) / rate
        if long_answer and kind == "real":
            server.load("tiny")
            stack.enter_context(cpu_quota(server.runner_pids()["tiny"], LONG_ANSWER_CORE))
        speed_up = STEADY_SPEED_UP if long_answer else SPEED_UP
        client = stack.enter_context(StreamingClient.lasting(server.url, "tiny", seconds, speed_up=speed_up))
        assert client.wait_streaming()
        if guard is not None:
            guard.wait(lambda: guard.model_states().get("big") == "idle", 15, "big is idle")
        job = stack.enter_context(Hog(host.popen))
        job.grow(HEAD_START, GIB)
        assert job.wait(10)
        job.grow(JOB, rate)
        finished = job.wait(60)
        answer = client.wait(seconds * 6) if guarded else client.answer
        loaded = set(server.runner_pids())  # now, since an unload may end after the job on a busy machine
        return {
            "job finished": finished,
            "answer finished": answer.finished,
            "answer": answer.summary(),
            "neighbour lives": alive(neighbour.pid),
            "loaded": loaded,
            "oom kills": host.oom_kills(),
            "report": guard and guard.report(),
            "log": guard and guard.tail(60),
        }


@pytest.mark.parametrize("kind", ["real", "fake"])
@pytest.mark.parametrize("pace", RATES)
def test_9_only_the_idle_model_goes(
    small_host: Callable[[int], SmallHost],
    ollama_installation: Installation,
    kind: str,
    pace: str,
    long_answer: bool,  # noqa: FBT001
) -> None:
    """The job finishes, the answer finishes, the neighbour lives, only the idle model goes."""
    assert ollama_installation
    small_host(256 * MIB)
    off = unguarded(job_beside_ollama, kind, pace)
    assert off["oom kills"] > 0, facts(off)
    told = job_beside_ollama(kind, pace, guarded=True, long_answer=long_answer)
    assert told["oom kills"] == 0, facts(told)
    assert told["job finished"], facts(told)
    assert told["answer finished"], facts(told)
    assert told["neighbour lives"], facts(told)
    assert told["loaded"] == {"tiny"}, facts(told)


def test_the_guard_inside_sees_the_small_machine(small_host: Callable[[int], SmallHost]) -> None:
    """`once` inside says 4 GiB, and an absurd SwapFree (lxcfs with -u shows one) does not blind it."""
    host = small_host(MEMORY)
    program = Path(sys.executable).with_name("ollama-guard")
    document = json.loads(host.run([str(program), "once", "--json"], timeout=60))
    host_domain = next(d for d in document["domains"] if d["name"] == "host")
    assert host_domain["capacity_bytes"] == MEMORY
    assert host_domain["available_bytes"] is not None
