"""Threshold crossed -> kill signal: 1,000 trials per mode; exits 1 when a p99 is above 50 ms.

It exits 1 as well when the trials prove nothing: the kernel killed somebody, `hands` were not what the mode's
name says (slowed ones must stall for 5 % of the time, by PSI), or it is as quick with nobody there.

Each trial loads another small model into a fake Ollama in a 1 GiB cgroup. A hog takes memory at full speed
through `critical`; after each MiB it reads what is available, by the guard's own formula. The latency is the
time from the last sample *above* critical to the guard's own log line of the decision, which it stamps right
after the signal, rounded up to the next millisecond: both ends are to the guard's disadvantage. `dead p99` is
the same up to the moment when the runner's pidfd says that it is dead, its memory given back.

Ways: `step` starts 16 MiB above critical from a standstill, so that there is no slope to forecast from: the
honest number (should the forecast be quicker all the same, the trial is told and not counted). `spike` starts
224 MiB above and the forecast may act first; that counts as 0, and is told. `rested` is a step that finds the
guard in a rest, after eight quiet seconds; then the model is idle, so that the first act may be an unload.
The guard has the nice value of its unit. `no guard` is the same crossing by a hog that goes on, with nobody
there: the time is the one until the kernel kills somebody, and the notes say whom.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from beds.http import request
from beds.process import alive
from benchmarks import modes
from benchmarks.crossing import (
    MIB,
    NO_GUARD,
    RUNNER_BYTES,
    Hog,
    Place,
    Tally,
    Verdict,
    heading,
    milliseconds,
    place,
    quantile,
    row,
    wait_until,
    without_guard,
)

BUDGET_SECONDS = 0.050
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
# (bytes above critical at the start, bytes taken at full speed)
WAYS = {
    "step": (16 * MIB, 48 * MIB),
    "spike": (224 * MIB, 256 * MIB),
    "rested": (16 * MIB, 48 * MIB),
}
# After the load: until the guard has proven the newborn's argv, and the load's own fall is no slope any more.
# The rest is chance, since no phase of the guard's tick is to be preferred (seconds).
PAUSE_SECONDS = (0.30, 0.45)
# A guard rests when its runners have been idle for five seconds, which takes two to prove.
REST_SECONDS = 8.0
# Twice what a kill is foreseen to take.
SETTLE_SECONDS = 0.2
DEATH_SECONDS = 5.0
LOG_SECONDS = 1.0
LOG_RESOLUTION_SECONDS = 0.001
# The end of the log that is looked at for the decision: some 40 lines.
LOG_TAIL_BYTES = 1 << 14


class KillTally(Tally):
    """And the time until the killed one was dead."""

    def __init__(self) -> None:
        super().__init__()
        self.dead_seconds: list[float] = []

    def add(self, crossed_at: float, signalled_at: float, died_at: float) -> None:
        """One kill after the crossing, or before it (both 0 then)."""
        self.seconds.append(max(0.0, signalled_at - crossed_at))
        self.dead_seconds.append(max(0.0, died_at - crossed_at))


def trial(way: str, model: str, yard: Place, tally: KillTally) -> None:
    """One crossing."""
    above, size = WAYS[way]
    yard.hog.do(f"settle {CRITICAL_BYTES + above + RUNNER_BYTES} {SETTLE_SECONDS}")
    request(yard.server.url, "POST", "/api/generate", {"model": model, "stream": False}, timeout=30.0)
    pid = yard.server.runner_pids().get(model)
    yard.mode.tend()
    quiet = REST_SECONDS if way == "rested" else 0.0
    time.sleep(quiet + random.uniform(*PAUSE_SECONDS))  # noqa: S311 - no secret
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
    wait_until(lambda: model not in yard.server.runner_pids(), DEATH_SECONDS)
    if died_at is None:
        tally.missed += 1
        return
    crossed_at = (crossed["above"] or 0.0) if crossed["below"] else math.inf
    signalled_at = min(died_at, _decided_at(yard.guard.log, began))
    if signalled_at < crossed_at:
        tally.early += 1
    if signalled_at >= crossed_at or way == "spike":
        tally.add(crossed_at, signalled_at, died_at)


def _decided_at(log: Path, began: float) -> float:
    """CLOCK_BOOTTIME of the log line that tells of the act, rounded up; for ever if there is none."""
    ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    deadline = time.monotonic() + LOG_SECONDS
    while time.monotonic() < deadline:
        for event in _last_events(log):
            at = datetime.fromisoformat(event["time"]).timestamp() - ahead + LOG_RESOLUTION_SECONDS
            if at >= began and event.get("rung") in {"kill_runner", "abort_load", "unload_idle"}:
                return at
        time.sleep(0.01)
    return math.inf


def _last_events(log: Path) -> Iterator[dict[str, Any]]:
    """The decisions at the log's end, the newest first; the whole log would take ever longer to read."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().splitlines()[1:]
    for line in reversed(lines):
        if b'"decision.made"' in line and line.endswith(b"}"):
            yield json.loads(line)


def _cross(hog: Hog, size: int, pidfd: int) -> float | None:
    """Start the step and wait for the runner's death; its CLOCK_BOOTTIME, None if it never came."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    hog.say(f"step {size} {CRITICAL_BYTES}")
    dead = poll.poll(DEATH_SECONDS * 1000)
    return time.clock_gettime(time.CLOCK_BOOTTIME) if dead else None


def measure(name: str, way: str, trials: int) -> tuple[KillTally, list[str], str]:
    """All trials of one mode and way, in a place of their own; the tally, the proof, and what it lacks."""
    tally = KillTally()
    with place(name, MODELS, CONFIG) as yard:
        oom_kills = yard.cgroup.oom_kills()
        number = 0
        while tally.trials < trials and number < 3 * trials:
            trial(way, f"m{number % len(MODELS)}", yard, tally)
            number += 1
        killed = yard.cgroup.oom_kills() - oom_kills
        missing = f"the kernel killed {killed} times" if killed else yard.mode.missing()
        return tally, [yard.mode.note(), *tally.notes()], missing


def main() -> int:
    """Measure and print; 1 when a p99 is above the budget, or something is not proven."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000, help="per mode and way")
    parser.add_argument("--controls", type=int, default=20, help="trials without a guard")
    parser.add_argument("--mode", action="append", choices=modes.NAMES, help="only these")
    parser.add_argument(
        "--way", action="append", choices=WAYS, help="only these (else step, and calm's spike)"
    )
    words = parser.parse_args()
    wanted = [(name, "step") for name in modes.NAMES] + [("calm", "spike")]
    if words.mode or words.way:
        wanted = [(name, way) for name in words.mode or modes.NAMES for way in words.way or ["step"]]
    heading("dead p99 ms")
    verdict = Verdict(BUDGET_SECONDS)
    for name, way in wanted:
        tally, notes, missing = measure(name, way, words.trials)
        dead = milliseconds(quantile(tally.dead_seconds, 0.99, tally.missed))
        label = name if way == "step" else f"{name}, {way}"
        verdict.judge(label, tally, words.trials, missing)
        row([label, str(tally.trials), *tally.figures(), dead, ", ".join(filter(None, notes))])
    if words.controls:
        control, notes = without_guard(words.controls, CRITICAL_BYTES, MODELS[0])
        row([NO_GUARD, str(control.trials), *control.figures(), "", ", ".join(notes)])
        verdict.judge_control(control)
    return verdict.tell()


if __name__ == "__main__":
    sys.exit(main())
