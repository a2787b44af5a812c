"""The flagship: one small machine, four stories, each under no guard, earlyoom, nohang and ollama-guard.

A 4 GiB machine without swap (a cgroup with its own namespaces and `/proc/meminfo`; the kernel's OOM
killer acts inside it), a real Ollama, a neighbour of 300 MiB that must live, a client that reads a long
answer, and something that eats memory. Each guard runs with the configuration that its package ships.
Takes about a quarter of an hour and needs root; `--out FILE` keeps every sample of available memory, which
`benchmarks.plot` draws.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from beds.clients import RetryClient, StreamingClient
from beds.hog import Hog
from beds.ollama_install import Installation
from beds.process import alive
from beds.real_ollama import install_with_models
from beds.server import RealServer
from beds.smallhost import SmallHost
from benchmarks.rivals import NAMES, Running, protected
from benchmarks.watcher import Result, Watcher

MIB = 1 << 20
GIB = 1 << 30
MEMORY = 4 * GIB
NEIGHBOUR = 300 * MIB
HEAD_START = 900 * MIB
JOB = 2700 * MIB
# Slow enough that nobody takes the beginning for the story.
HEAD_START_BYTES_PER_SECOND = 300 * MIB
# Without one of the two idle models there is room well above soft (20 %), with both not even 10 %.
JOB_BESIDE_TWO = 2040 * MIB
GROWTH_BYTES_PER_SECOND = 100 * MIB
# What is left beside it is less than the 1.5 GiB of `big`.
JOB_BEFORE_THE_LOAD = 2600 * MIB
LEAK_BYTES_PER_SECOND = 40 * MIB
BURST_BYTES_PER_SECOND = 1500 * MIB
RETRY_SECONDS = 15.0
# A job that has not got there by then was stopped, or waits for ever.
PATIENCE_SECONDS = 20.0
# The answer outlasts the job: a model that has answered is idle, and then nobody would miss it.
ANSWER_SECONDS = 12.0
# How long a model has to be quiet until nobody takes it for a busy one.
QUIET_SECONDS = 5.0

STORIES = {
    "slow leak": "a job grows from 0.9 to 2.6 GiB at 40 MiB/s beside a 1.5 GiB model that is idle",
    "burst": "the same at 1,500 MiB/s",
    "two idle models": "of two idle models of 0.6 GiB one was asked for later; a job needs the room of one",
    "a load that can't fit": "2.6 GiB are in use, and a client asks for a model of 1.5 GiB, each second",
}


class Stage:
    """One small machine with its server, neighbour and guard, for one run."""

    def __init__(
        self, host: SmallHost, installation: Installation, guard: str, stack: contextlib.ExitStack
    ) -> None:
        self._host, self._stack, self.guard_name = host, stack, guard
        self.server = stack.enter_context(RealServer(installation, launcher=self._unaware))
        self.neighbour = self.hog(NEIGHBOUR, GIB)
        self.guard: Running = stack.enter_context(protected(guard, host, self.server))
        self.client: StreamingClient | None = None
        self.watcher = stack.enter_context(Watcher(host.cgroup))

    def _unaware(self, argv: list[str], **kwargs: object) -> object:
        """Start the server with the big machine's `/proc/meminfo`, as blind as each Ollama since 0.30 is."""
        blind = ["unshare", "--mount", "/bin/sh", "-c", 'umount /proc/meminfo; exec "$@"', "server", *argv]
        return self._host.popen(blind, **kwargs)

    def hog(self, target: int, rate: int) -> Hog:
        """A process that has taken so much, and waits for more to do."""
        hog = self._stack.enter_context(Hog(self._host.popen))
        hog.grow(target, rate)
        hog.wait(PATIENCE_SECONDS)
        return hog

    def stream(self, seconds: float) -> None:
        """A client begins to read an answer of the small model that takes about so long."""
        self.client = self._stack.enter_context(StreamingClient.lasting(self.server.url, "tiny", seconds))
        self.client.wait_streaming()

    def grow(self, job: Hog, target: int, rate: int) -> bool:
        """Let a job grow, and a second pass; whether it got there."""
        job.grow(target, rate)
        done = job.wait(target / rate + PATIENCE_SECONDS)
        time.sleep(1.0)
        return done

    def result(self, story: str, *, job: bool) -> Result:
        """What is to be said of this run, once the answer has ended."""
        assert self.client is not None
        self.watcher.end()
        pss_bytes, cpu_seconds = self.guard.pss_bytes(), self.guard.cpu_seconds()
        loaded = sorted(self.server.runner_pids()) if self.server.alive else []
        answer = self.client.wait(300.0 if self.server.alive else 1.0)
        return Result(
            story=story,
            guard=self.guard_name,
            job=job,
            answer=answer.finished,
            neighbour=alive(self.neighbour.pid),
            models=loaded,
            oom_kills=self.watcher.oom_kills(),
            seconds_below_tenth=self.watcher.seconds_below(MEMORY // 10),
            lowest_bytes=self.watcher.lowest(),
            guard_pss_bytes=pss_bytes,
            guard_cpu_seconds=cpu_seconds,
            seconds=self.watcher.seconds(),
            samples=self.watcher.samples,
        )


def beside_an_idle_model(stage: Stage, story: str, rate: int) -> Result:
    """A job grows beside a big idle model and a small busy one."""
    stage.server.load("big")
    stage.stream(ANSWER_SECONDS + (JOB - HEAD_START) / rate)
    time.sleep(QUIET_SECONDS)
    stage.watcher.begin()
    job = stage.hog(HEAD_START, HEAD_START_BYTES_PER_SECOND)
    return stage.result(story, job=stage.grow(job, JOB, rate))


def beside_two_idle_models(stage: Stage, story: str) -> Result:
    """Two idle models: `mid` was used long ago, `mid2` just now."""
    stage.server.load("mid")
    time.sleep(QUIET_SECONDS)
    stage.server.load("mid2")
    stage.stream(ANSWER_SECONDS + JOB_BESIDE_TWO / GROWTH_BYTES_PER_SECOND)
    time.sleep(QUIET_SECONDS)
    stage.watcher.begin()
    job = stage.hog(HEAD_START, HEAD_START_BYTES_PER_SECOND)
    return stage.result(story, job=stage.grow(job, JOB_BESIDE_TWO, GROWTH_BYTES_PER_SECOND))


def beside_a_load(stage: Stage, story: str) -> Result:
    """A model that can't fit is asked for, again and again, while a job holds most of the memory."""
    stage.server.load("tiny")
    stage.stream(RETRY_SECONDS + ANSWER_SECONDS)
    job = stage.hog(JOB_BEFORE_THE_LOAD, GIB)
    stage.watcher.begin()
    with RetryClient(stage.server.url, "big"):
        time.sleep(RETRY_SECONDS)
    return stage.result(story, job=job.finished)


def play(installation: Installation, story: str, guard: str) -> Result:
    """One story under one guard, on a machine of its own."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(SmallHost(MEMORY))
        stage = Stage(host, installation, guard, stack)
        match story:
            case "slow leak":
                return beside_an_idle_model(stage, story, LEAK_BYTES_PER_SECOND)
            case "burst":
                return beside_an_idle_model(stage, story, BURST_BYTES_PER_SECOND)
            case "two idle models":
                return beside_two_idle_models(stage, story)
            case _:
                return beside_a_load(stage, story)


HEADINGS = (
    "guard", "the job", "the answer", "neighbour", "models left", "OOM kills", "s below 10 %", "lowest",
    "guard's PSS", "guard's CPU",
)  # fmt: skip


def row(result: Result) -> str:
    """One line of the table."""
    own = result.guard_pss_bytes
    words = (
        result.guard,
        "finishes" if result.job else "**killed**",
        "finishes" if result.answer else "**cut**",
        "lives" if result.neighbour else "**killed**",
        ", ".join(result.models) or "none",
        str(result.oom_kills),
        f"{result.seconds_below_tenth:.1f}",
        f"{result.lowest_bytes / MIB:,.0f} MiB",
        "" if own is None else f"{own / MIB:.1f} MiB",
        "" if own is None else f"{100 * (result.guard_cpu_seconds or 0.0) / result.seconds:.1f} %",
    )
    return f"| {' | '.join(words)} |"


def main() -> int:
    """Play and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--story", choices=list(STORIES), action="append", help="only this one (may be repeated)"
    )
    parser.add_argument("--guard", choices=NAMES, action="append", help="only this one (may be repeated)")
    parser.add_argument("--out", type=Path, help="where to keep all samples, as JSON")
    options = parser.parse_args()
    installation = install_with_models()
    results = []
    for story in options.story or STORIES:
        sys.stdout.write(
            f"\n**{story}**: {STORIES[story]}\n\n| {' | '.join(HEADINGS)} |\n{'| --- ' * len(HEADINGS)}|\n"
        )
        for guard in options.guard or NAMES:
            results.append(play(installation, story, guard))
            sys.stdout.write(row(results[-1]) + "\n")
            sys.stdout.flush()
    if options.out:
        options.out.write_text(json.dumps([asdict(result) for result in results]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
