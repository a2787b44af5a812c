"""Threshold crossed -> 1 GiB is available again, on a real Ollama; exits 1 when a way's p95 is above 300 ms.

A 4 GiB cgroup holds a real Ollama with `big` (1.5 GiB) and a hog that fills the rest. The hog takes 64 MiB at
full speed, across a threshold. The latency is the time from the last sample *above* the threshold until 1 GiB
more is available than at the lowest point; this process, at the highest priority, samples once a millisecond.

Ways: `unload` crosses `hard` while the model is idle: the guard asks Ollama to unload it, and Ollama's own
way takes about 120 ms of the time. `kill` crosses `critical` while a client reads an answer of it. `no guard`
is the same crossing with nobody there, by a hog that goes on: nothing comes back until the kernel kills
somebody, and the notes say whom.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Iterator

from beds.cgroups import MemoryCgroup
from beds.clients import StreamingClient
from beds.guard import Guard
from beds.real_ollama import install_with_models
from beds.server import RealServer
from benchmarks.crossing import (
    MIB,
    NO_GUARD,
    Hog,
    Tally,
    first_death,
    heading,
    row,
    wait_until,
    watching,
)

GIB = 1 << 30
BUDGET_SECONDS = 0.300
# The most of some twenty trials: a p99 would be the worst one anyhow.
BUDGET_SHARE = 0.95
LIMIT_BYTES = 4 * GIB
MODEL = "big"
# What it takes at most with all that an answer adds.
MODEL_BYTES = 1600 * MIB
# The guard's own for a container of 4 GiB: 8 % is hard, 4 % critical.
THRESHOLDS = {"unload": 327 * MIB, "kill": 164 * MIB}
# What is above the threshold that is measured stands close to it, so that nothing is done on the way there.
CONFIG = {
    "unload": 'soft = "328MiB"\nhard = "327MiB"\ncritical = "164MiB"',
    "kill": 'soft = "166MiB"\nhard = "165MiB"\ncritical = "164MiB"',
}
POLICY = """
[policy]
transition = "0s"
kills_per_hour = 3600
"""
ABOVE_BYTES = 32 * MIB
STEP_BYTES = 64 * MIB
# The way to the start (`spike.py`): nobody minds while no model is there; then it takes twice what the unload
# or the kill of 1.5 GiB is foreseen to take.
FILL_SECONDS, SETTLE_SECONDS = 0.05, {"unload": 1.5, "kill": 0.5}
# Then: until a runner is idle, or has worked long enough to be seen at it.
PAUSE_SECONDS = {"unload": 1.5, "kill": 0.5}
# Longer than any trial (9 a second): the answer is cut by the kill.
ANSWER_TOKENS = 600
PATIENCE_SECONDS = 10.0
KERNEL_SECONDS = 30.0
SAMPLE_SECONDS = 0.001


def trial(way: str, cgroup: MemoryCgroup, server: RealServer, hog: Hog, tally: Tally) -> None:
    """One crossing; the model is loaded before it and gone after it."""
    threshold = THRESHOLDS[way]
    hog.do(f"settle {threshold + ABOVE_BYTES + MODEL_BYTES} {FILL_SECONDS}")
    server.load(MODEL)
    hog.do(f"settle {threshold + ABOVE_BYTES} {SETTLE_SECONDS[way]}")
    with contextlib.ExitStack() as stack:
        if way == "kill":
            client = stack.enter_context(StreamingClient(server.url, MODEL, ANSWER_TOKENS))
            client.wait_streaming()
        time.sleep(PAUSE_SECONDS[way])
        if MODEL not in server.runner_pids():
            tally.void += 1
            return
        hog.say(f"step {STEP_BYTES} {threshold}")
        back_at = _back_at(cgroup)
        crossed = hog.answer()
        hog.do("release")
    if back_at is None:
        tally.missed += 1
    elif crossed["below"] is None or back_at < (crossed["above"] or 0.0):
        tally.early += 1
    else:
        tally.seconds.append(back_at - (crossed["above"] or 0.0))
    wait_until(lambda: MODEL not in server.runner_pids(), PATIENCE_SECONDS)


def _back_at(cgroup: MemoryCgroup) -> float | None:
    """CLOCK_BOOTTIME when 1 GiB more is available than at the lowest point; None if that never comes."""
    lowest, deadline = cgroup.available(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        available = cgroup.available()
        lowest = min(lowest, available)
        if available >= lowest + GIB:
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        time.sleep(SAMPLE_SECONDS)
    return None


@contextlib.contextmanager
def bed() -> Iterator[tuple[MemoryCgroup, RealServer]]:
    """A cgroup with a real Ollama, and this process before all others."""
    with (
        MemoryCgroup(LIMIT_BYTES, "bytes-back") as cgroup,
        RealServer(install_with_models(), launcher=cgroup.popen) as server,
        watching(),
    ):
        yield cgroup, server


def _guard(way: str, cgroup: MemoryCgroup, server: RealServer) -> Guard:
    config = f"[thresholds.container]\n{CONFIG[way]}\n{POLICY}"
    return Guard(server.url, cgroup=f"/{cgroup.name}", config=config)


def measure(way: str, trials: int) -> tuple[Tally, list[str]]:
    """All trials of one way."""
    with bed() as (cgroup, server), _guard(way, cgroup, server) as guard:
        guard.wait_guarding(server.pid)
        tally, oom_kills, hog = Tally(), cgroup.oom_kills(), Hog(cgroup)
        number = 0
        while tally.trials < trials and number < 2 * trials:
            trial(way, cgroup, server, hog, tally)
            number += 1
        killed = cgroup.oom_kills() - oom_kills
        rungs = [event["rung"] for event in guard.events("decision.made")]
        hog.started.stop()
        told = [f"{rungs.count(rung)} times {rung}" for rung in sorted(set(rungs))]
        return tally, [*told, f"{killed} OOM kills" if killed else "", *tally.notes()]


def without_guard(trials: int) -> tuple[Tally, list[str]]:
    """Nobody there: seconds until 1 GiB is back because the kernel killed somebody; and whom."""
    tally, victims = Tally(), {"hog": 0, "runner": 0}
    with bed() as (cgroup, server):
        for _ in range(trials):
            server.load(MODEL)
            hog = Hog(cgroup)
            hog.do(f"settle {THRESHOLDS['unload'] + ABOVE_BYTES} 0.1")
            pids = {"hog": hog.started.pid, "runner": server.runner_pids()[MODEL]}
            crossed_at = hog.crossed_at(f"plunge {THRESHOLDS['unload']}")
            tally.seconds.append((_back_at(cgroup) or math.inf) - crossed_at)
            victims[first_death(pids, KERNEL_SECONDS)] += 1
            hog.started.stop()
    return tally, [f"the kernel killed the {who} {count} times" for who, count in victims.items() if count]


def main() -> int:
    """Measure and print; 1 when the budget is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20, help="per way")
    parser.add_argument("--controls", type=int, default=5, help="trials without a guard")
    parser.add_argument("--way", action="append", choices=THRESHOLDS, help="only these")
    words = parser.parse_args()
    heading()
    late = False
    for way in words.way or THRESHOLDS:
        tally, notes = measure(way, words.trials)
        late |= tally.quantile(BUDGET_SHARE) > BUDGET_SECONDS
        row([way, str(tally.trials), *tally.figures(), ", ".join(filter(None, notes))])
    if words.controls:
        control, notes = without_guard(words.controls)
        row([NO_GUARD, str(control.trials), *control.figures(), ", ".join(notes)])
    sys.stdout.write(f"budget: p95 at most {BUDGET_SECONDS * 1000:.0f} ms: {'missed' if late else 'met'}\n")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
