"""Threshold crossed -> kill signal: 200 trials per mode; exits 1 when a p99 is above 50 ms.

Each trial loads another small model into a fake Ollama in a 1 GiB cgroup. A hog takes memory at full speed
through `critical`; after each MiB it reads what is available, by the guard's own formula. The latency is the
time from the last sample *above* critical to the moment when the runner's pidfd says that it is dead: both
ends are to the guard's disadvantage, so the time to the signal is shorter than what is printed.

Ways: `step` starts 16 MiB above critical from a standstill, so that there is no slope to forecast from: the
honest number (should the forecast be quicker all the same, the trial is told and not counted). `spike` starts
224 MiB above and the forecast may act first; that counts as 0, and is told. The guard has the nice value of
its unit.
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
WAYS = {"step": (16 * MIB, 48 * MIB), "spike": (224 * MIB, 256 * MIB)}
DEATH_SECONDS = 5.0
# As systemd/ollama-guard.service sets it.
UNIT_NICE = -15
WATCHER_NICE = -20
_SCRIPT = Path(__file__).with_name("spike.py")


@dataclass
class Tally:
    """Latencies of one mode and way, in seconds; ``early``: killed before the crossing, by forecast."""

    seconds: list[float] = field(default_factory=list)
    early: int = 0
    missed: int = 0
    void: int = 0

    def quantile(self, share: float) -> float:
        """Nearest rank; a kill that never came counts as for ever."""
        ranked = sorted(self.seconds) + [float("inf")] * self.missed
        return ranked[math.ceil(share * len(ranked)) - 1] if ranked else float("inf")


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


def trial(way: str, model: str, server: FakeServer, hog: Hog, mode: modes.Mode, tally: Tally) -> None:
    """One crossing."""
    above, size = WAYS[way]
    hog.do(f"settle {CRITICAL_BYTES + above + RUNNER_BYTES}")
    request(server.url, "POST", "/api/generate", {"model": model, "stream": False}, timeout=30.0)
    pid = server.runner_pids().get(model)
    mode.tend()
    time.sleep(random.uniform(0.30, 0.45))  # noqa: S311 - no phase of the guard's tick is to be preferred
    if pid is None or not alive(pid):
        tally.void += 1
        return
    pidfd = os.pidfd_open(pid)
    try:
        died_at = _cross(hog, size, pidfd)
        crossed = hog.answer()
    finally:
        os.close(pidfd)
    hog.do("release")
    if died_at is None:
        tally.missed += 1
    elif crossed["below"] is None or died_at < (crossed["above"] or 0.0):
        tally.early += 1
        if way == "spike":
            tally.seconds.append(0.0)
    else:
        tally.seconds.append(died_at - (crossed["above"] or 0.0))
    _wait_gone(server, model)
    if os.environ.get("DBG"):
        off = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        import datetime

        rows = []
        for e in GUARD[0].events():
            at = datetime.datetime.fromisoformat(e["time"]).timestamp() - off - (crossed["above"] or 0)
            if -0.5 < at < 0.5:
                rows.append(f"{at * 1000:.1f}:{e['event']}:{e['message'][:90]}")
        if died_at and died_at - (crossed["above"] or 0) > 0.035:
            print(
                "LAT",
                f"{(died_at - (crossed['above'] or 0)) * 1000:.1f}",
                "below",
                f"{((crossed['below'] or 0) - (crossed['above'] or 0)) * 1000:.1f}",
                *rows,
                sep="\n   ",
            )


GUARD = []


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
        GUARD[:] = [guard]
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
            trial(way, f"m{number % len(MODELS)}", server, hog, mode, tally)
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
    sys.stdout.write(row(["mode", "way", "trials", "p50 ms", "p95 ms", "p99 ms", "max ms", "notes"]))
    sys.stdout.write(row(["---"] * 8))
    late = False
    for name, way in wanted:
        tally, notes = measure(name, way, words.trials)
        figures = [f"{tally.quantile(share) * 1000:.1f}" for share in (0.50, 0.95, 0.99, 1.0)]
        late |= tally.quantile(0.99) > BUDGET_SECONDS
        sys.stdout.write(row([name, way, str(len(tally.seconds) + tally.missed), *figures, notes]))
        sys.stdout.flush()
    sys.stdout.write(f"budget: p99 at most {BUDGET_SECONDS * 1000:.0f} ms: {'missed' if late else 'met'}\n")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
