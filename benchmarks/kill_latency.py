"""Threshold crossed -> kill signal: 200 trials per mode; exits 1 when a p99 is above 50 ms.

Each trial loads another small model into a fake Ollama in a 1 GiB cgroup. A hog takes memory at full speed
through `critical`; after each MiB it reads what is available, by the guard's own formula. The latency is the
time from the last sample *above* critical to the guard's own log line of the decision, which it stamps right
after the signal, rounded up to the next millisecond: both ends are to the guard's disadvantage. `dead p99` is
the same up to the moment when the runner's pidfd says that it is dead, its memory given back.

Ways: `step` starts 16 MiB above critical from a standstill, so that there is no slope to forecast from: the
honest number (should the forecast be quicker all the same, the trial is told and not counted). `spike` starts
224 MiB above and the forecast may act first; that counts as 0, and is told. `rested` is a step that finds the
guard in a rest, after eight quiet seconds; then the model is idle, so that the first act may be an unload.
The guard has the nice value of its unit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.http import request
from beds.process import alive
from beds.thrash import FRESH_PAGES
from benchmarks import modes

MIB = 1 << 20
BUDGET_SECONDS = 0.050
LIMIT_BYTES = 1024 * MIB
CRITICAL_BYTES = 96 * MIB
# Close together: what a runner at soft and hard would be given as time for an unload is not measured here.
CONFIG = """
[thresholds.container]
soft = "98MiB"
hard = "97MiB"
critical = "96MiB"
[policy]
transition = "0s"
min_reclaim = "16MiB"
kills_per_hour = 3600
"""
# More models than strikes are remembered for (32): none of them is ever condemned.
MODELS = tuple(f"m{number}=24MiB,kv=256,rate=150" for number in range(40))
# What one of these runners takes in all: weights, KV cache, and the interpreter of the fake.
RUNNER_BYTES = 34 * MIB
# (bytes above critical at the start, bytes taken at full speed)
WAYS = {
    "step": (16 * MIB, 48 * MIB),
    "spike": (224 * MIB, 256 * MIB),
    "rested": (16 * MIB, 48 * MIB),
}
# A guard rests when its runners have been idle for five seconds, which takes two to prove.
REST_SECONDS = 8.0
DEATH_SECONDS = 5.0
LOG_SECONDS = 1.0
LOG_RESOLUTION_SECONDS = 0.001
# As systemd/ollama-guard.service sets it.
UNIT_NICE = -15
WATCHER_NICE = -20
_SCRIPT = Path(__file__).with_name("spike.py")


@dataclass
class Tally:
    """Latencies of one mode and way, in seconds; ``early``: killed before the crossing, by forecast."""

    seconds: list[float] = field(default_factory=list)
    dead_seconds: list[float] = field(default_factory=list)
    early: int = 0
    missed: int = 0
    void: int = 0

    def quantile(self, share: float, *, dead: bool = False) -> float:
        """Nearest rank; a kill that never came counts as for ever."""
        ranked = sorted(self.dead_seconds if dead else self.seconds) + [math.inf] * self.missed
        return ranked[math.ceil(share * len(ranked)) - 1] if ranked else math.inf

    def add(self, crossed_at: float, signalled_at: float, died_at: float) -> None:
        """One kill after the crossing, or before it (both 0 then)."""
        self.seconds.append(max(0.0, signalled_at - crossed_at))
        self.dead_seconds.append(max(0.0, died_at - crossed_at))


class Hog:
    """The spiking program inside the cgroup."""

    def __init__(self, cgroup: MemoryCgroup) -> None:
        version = "1" if cgroup.is_v1 else "2"
        argv = [sys.executable, "-I", "-S", str(_SCRIPT), str(cgroup.path), version, str(cgroup.limit)]
        self.started = cgroup.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(self, line: str) -> None:
        """Send a command; `answer` must follow."""
        self.started.stdin.write(line.encode() + b"\n")
        self.started.stdin.flush()

    def answer(self) -> dict[str, float | None]:
        """Wait for its answer."""
        line = self.started.stdout.readline()
        if not line:
            raise RuntimeError("the hog died: the kernel was quicker than the guard")
        read: dict[str, float | None] = json.loads(line)
        return read

    def do(self, line: str) -> dict[str, float | None]:
        """Send a command and wait for its answer."""
        self.say(line)
        return self.answer()


@dataclass(frozen=True)
class Yard:
    """What a trial needs."""

    server: FakeServer
    guard: Guard
    hog: Hog
    mode: modes.Mode


def trial(way: str, model: str, yard: Yard, tally: Tally) -> None:
    """One crossing."""
    above, size = WAYS[way]
    yard.hog.do(f"settle {CRITICAL_BYTES + above + RUNNER_BYTES}")
    request(yard.server.url, "POST", "/api/generate", {"model": model, "stream": False}, timeout=30.0)
    pid = yard.server.runner_pids().get(model)
    yard.mode.tend()
    quiet = REST_SECONDS if way == "rested" else 0.3
    time.sleep(quiet + random.uniform(0.0, 0.15))  # noqa: S311 - no phase of the guard's tick is preferred
    if pid is None or not alive(pid):
        tally.void += 1
        return
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    pidfd = os.pidfd_open(pid)
    try:
        died_at = _cross(yard.hog, size, pidfd)
        crossed = yard.hog.answer()
    finally:
        os.close(pidfd)
    yard.hog.do("release")
    _wait_gone(yard.server, model)
    if died_at is None:
        tally.missed += 1
        return
    crossed_at = (crossed["above"] or 0.0) if crossed["below"] else math.inf
    signalled_at = min(died_at, _decided_at(yard.guard, began))
    if signalled_at < crossed_at:
        tally.early += 1
    if signalled_at >= crossed_at or way == "spike":
        tally.add(crossed_at, signalled_at, died_at)


def _decided_at(guard: Guard, began: float) -> float:
    """CLOCK_BOOTTIME of the log line that tells of the act, rounded up; for ever if there is none."""
    ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    deadline = time.monotonic() + LOG_SECONDS
    while time.monotonic() < deadline:
        for event in reversed(guard.events("decision.made")):
            at = datetime.fromisoformat(event["time"]).timestamp() - ahead + LOG_RESOLUTION_SECONDS
            if at < began:
                break
            if event["rung"] in {"kill_runner", "abort_load", "unload_idle"}:
                return at
        time.sleep(0.01)
    return math.inf


def _cross(hog: Hog, size: int, pidfd: int) -> float | None:
    """Start the step and wait for the runner's death; its CLOCK_BOOTTIME, None if it never came."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    hog.say(f"step {size} {CRITICAL_BYTES}")
    dead = poll.poll(DEATH_SECONDS * 1000)
    return time.clock_gettime(time.CLOCK_BOOTTIME) if dead else None


def _wait_gone(server: FakeServer, model: str) -> None:
    deadline = time.monotonic() + DEATH_SECONDS
    while model in server.runner_pids() and time.monotonic() < deadline:
        time.sleep(0.01)


def measure(name: str, way: str, trials: int) -> tuple[Tally, str]:
    """All trials of one mode and way, in a yard of their own; the tally and the proof of the mode."""
    tally = Tally()
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(MemoryCgroup(LIMIT_BYTES, "latency"))
        server = stack.enter_context(FakeServer(cgroup.join_paths, MODELS))
        env = FRESH_PAGES if name == "hands slowed" else {}
        guard = stack.enter_context(Guard(server.url, cgroup=f"/{cgroup.name}", config=CONFIG, env=env))
        guard.wait_guarding(server.pid)
        os.setpriority(os.PRIO_PROCESS, guard.pid, UNIT_NICE)
        hog = Hog(cgroup)
        stack.callback(hog.started.stop)
        mode = stack.enter_context(modes.entered(name, guard, server))
        # Only this thread, which sees the deaths: it must not be what is late.
        stack.callback(os.setpriority, os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, 0, WATCHER_NICE)
        oom_kills = cgroup.oom_kills()
        number = 0
        while len(tally.seconds) + tally.missed < trials and number < 3 * trials:
            trial(way, f"m{number % len(MODELS)}", Yard(server, guard, hog, mode), tally)
            number += 1
        notes = [mode.note(), f"{tally.early} killed before the crossing" if tally.early else ""]
        notes += [f"{tally.missed} never" if tally.missed else "", f"{tally.void} void" if tally.void else ""]
        killed = cgroup.oom_kills() - oom_kills
        notes.append(f"{killed} OOM kills" if killed else "")
    return tally, ", ".join(note for note in notes if note)


def row(cells: Sequence[str]) -> str:
    """One line of the table."""
    return "| " + " | ".join(cells) + " |\n"


def main() -> int:
    """Measure and print; 1 when a p99 is above the budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200, help="per mode and way")
    parser.add_argument("--mode", action="append", choices=modes.NAMES, help="only these")
    parser.add_argument("--way", action="append", choices=WAYS, help="only these")
    words = parser.parse_args()
    wanted = [(name, "step") for name in modes.NAMES] + [("calm", "spike")]
    if words.mode or words.way:
        wanted = [(name, way) for name in words.mode or modes.NAMES for way in words.way or ["step"]]
    sys.stdout.write(
        row(["mode", "way", "trials", "p50 ms", "p95 ms", "p99 ms", "max ms", "dead p99", "notes"])
    )
    sys.stdout.write(row(["---"] * 9))
    late = False
    for name, way in wanted:
        tally, notes = measure(name, way, words.trials)
        figures = [f"{tally.quantile(share) * 1000:.1f}" for share in (0.50, 0.95, 0.99, 1.0)]
        figures.append(f"{tally.quantile(0.99, dead=True) * 1000:.1f}")
        late |= tally.quantile(0.99) > BUDGET_SECONDS
        sys.stdout.write(row([name, way, str(len(tally.seconds) + tally.missed), *figures, notes]))
        sys.stdout.flush()
    sys.stdout.write(f"budget: p99 at most {BUDGET_SECONDS * 1000:.0f} ms: {'missed' if late else 'met'}\n")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
