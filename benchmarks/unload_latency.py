"""Threshold crossed -> unload request on the wire: 1,000 trials per mode; exits 1 when a p99 is above 100 ms.

Seven small models are loaded in a fake Ollama in a 1 GiB cgroup, and the longest unused are idle. A hog takes
memory at full speed through `hard`; after each MiB it reads what is available, by the guard's own formula.
The latency is the time from the last sample *above* hard to the moment when the first bytes of the request
reach the server's port, where a proxy of the highest priority takes the time. Then the hog gives back what it
took, and the model is loaded again, now the one that was used last.

Each crossing starts 16 MiB above hard from a standstill, so that there is no slope to forecast from (should
the forecast be quicker all the same, the trial is told and not counted). `soft` has the same way, after its
grace. The budget holds for every mode but `hands slowed`, for which the design sets none: an unload is theirs
to send, and the kill rung stands behind it.
`no guard` is the same crossing by a hog that goes on, with nobody there: the time is the one until the kernel
kills somebody, and the notes say whom. It exits 1 as well when the trials prove nothing: too few count, a
mode is not what its name says, or the kernel alone is as quick.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import deque

from benchmarks.crossing import (
    MIB,
    NO_GUARD,
    Place,
    Tally,
    Verdict,
    heading,
    place,
    row,
    wait_until,
    without_guard,
)

BUDGET_SECONDS = 0.100
HARD_BYTES = 96 * MIB
# Critical far below: what is measured is the unload, and no kill may come before it.
CONFIG = """
[thresholds.container]
soft = "97MiB"
hard = "96MiB"
critical = "16MiB"
[policy]
transition = "0s"
min_reclaim = "16MiB"
"""
# Without hands nothing can be unloaded, so their death and their standstill are the kill rung's modes.
NAMES = ("calm", "cores busy", "hands slowed", "ps blocked")
WITHOUT_BUDGET = {"hands slowed"}
MODELS = tuple(f"m{number}=24MiB,kv=256,rate=1000" for number in range(7))
ABOVE_BYTES = 16 * MIB
# What the guard foresees for the load of one: 40 MiB are its own or shared with the server that forked it.
FORESEEN_BYTES = 42 * MIB
# 8 MiB below hard at the end: the unload of one runner brings back what is wanted.
STEP_BYTES = 24 * MIB
# From the end of its load until the guard holds a runner for idle: 2 s without CPU, and a bit.
IDLE_SECONDS = 2.3
# Twice what an unload is foreseen to take, before one was measured.
SETTLE_SECONDS = 1.0
# No phase of the guard's tick is to be preferred (seconds).
PAUSE_SECONDS = (0.05, 0.15)
PATIENCE_SECONDS = 5.0
# After an unload fewer models may stay loaded, until a few ticks have seen that memory suffices again; before
# that a reload would only be unloaded.
QUIET_SECONDS = 0.2
# From a runner's end until its memory is back; it takes a few milliseconds.
FREED_SECONDS = 0.5


class Queue:
    """The loaded models, the longest unused first, each with the time of its load."""

    def __init__(self, yard: Place) -> None:
        self._yard = yard
        self._loaded: deque[tuple[str, float]] = deque()
        for model in (model.partition("=")[0] for model in MODELS):
            self.load(model)
        yard.mode.lift()

    def load(self, model: str) -> None:
        """Load one; it is the last of all now."""
        self._yard.server.load(model)
        self._loaded.append((model, time.monotonic()))

    def wait_idle(self) -> None:
        """Until the first one is idle."""
        time.sleep(max(0.0, self._loaded[0][1] + IDLE_SECONDS - time.monotonic()))

    def reload(self) -> None:
        """Load those again that are gone or going."""
        wait_until(lambda: len(self._gone()) > 0, PATIENCE_SECONDS)
        gone = self._gone()
        self._loaded = deque(pair for pair in self._loaded if pair[0] not in gone)
        room = HARD_BYTES + len(gone) * FORESEEN_BYTES
        if not wait_until(lambda: self._yard.cgroup.available() >= room, FREED_SECONDS):
            self._yard.hog.do(f"settle {room + ABOVE_BYTES} {SETTLE_SECONDS}")
        time.sleep(QUIET_SECONDS)
        for model in gone:
            self.load(model)
        # A newborn that is never listed counts as loading for many seconds.
        self._yard.mode.lift()

    def _gone(self) -> list[str]:
        alive = self._yard.server.runner_pids()
        return [model for model, _ in self._loaded if model not in alive]


def trial(yard: Place, queue: Queue, tally: Tally) -> None:
    """One crossing."""
    yard.hog.do(f"settle {HARD_BYTES + ABOVE_BYTES} {SETTLE_SECONDS}")
    yard.mode.tend()
    queue.wait_idle()
    time.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - no secret
    if yard.proxy.unloads():
        tally.void += 1  # the way to the start already was too much
        queue.reload()
        return
    crossed_at = yard.hog.crossed_at(f"step {STEP_BYTES} {HARD_BYTES}")
    arrived: list[float] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not arrived and time.monotonic() < deadline:
        time.sleep(0.005)
        arrived = yard.proxy.unloads()
    yard.hog.do("release")
    if not arrived:
        tally.missed += 1
        return
    queue.reload()
    yard.proxy.unloads()
    if arrived[0] < crossed_at:
        tally.early += 1
    else:
        tally.seconds.append(arrived[0] - crossed_at)


def measure(name: str, trials: int) -> tuple[Tally, list[str], str]:
    """All trials of one mode, in a place of their own; the tally, the proof, and what it lacks."""
    with place(name, MODELS, CONFIG) as yard:
        queue, tally = Queue(yard), Tally()
        number = 0
        while tally.trials < trials and number < 3 * trials:
            trial(yard, queue, tally)
            number += 1
        killed = len(yard.guard.events("runner.killed"))
        notes = [yard.mode.note(), f"{killed} runners killed" if killed else "", *tally.notes()]
        return tally, notes, yard.mode.missing()


def main() -> int:
    """Measure and print; 1 when a p99 is above the budget, or something is not proven."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000, help="per mode")
    parser.add_argument("--controls", type=int, default=20, help="trials without a guard")
    parser.add_argument("--mode", action="append", choices=NAMES, help="only these")
    words = parser.parse_args()
    heading()
    verdict = Verdict(BUDGET_SECONDS)
    for name in words.mode or NAMES:
        tally, notes, missing = measure(name, words.trials)
        verdict.judge(name, tally, words.trials, missing, budgeted=name not in WITHOUT_BUDGET)
        row([name, str(tally.trials), *tally.figures(), ", ".join(filter(None, notes))])
    if words.controls:
        control, notes = without_guard(words.controls, HARD_BYTES, MODELS[0])
        row([NO_GUARD, str(control.trials), *control.figures(), ", ".join(notes)])
        verdict.judge_control(control)
    return verdict.tell()


if __name__ == "__main__":
    sys.exit(main())
