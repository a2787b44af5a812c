"""The time of promise 7 is for a benchmark to measure: the long form runs it once, and takes its word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.cgroups import MemoryCgroup
from beds.yard import MIB

ROOT = Path(__file__).parents[2]
TRIALS = 200
MODES = ("hands killed", "hands stopped", "hands slowed")


@pytest.mark.soak
def test_7_a_crossing_of_critical_is_answered_within_50_ms_whatever_has_become_of_hands(
    memory_cgroup: Callable[[int], MemoryCgroup],
) -> None:
    """The benchmark's own verdict: p99 of 200 trials, stalls proven by PSI, too late without a guard."""
    memory_cgroup(64 * MIB)
    argv = [sys.executable, "-m", "benchmarks.kill_latency", f"--trials={TRIALS}"]
    argv += [word for mode in MODES for word in ("--mode", mode)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row.split("|")[1].strip(): row for row in done.stdout.splitlines() if row.startswith("|")}
    assert rows.keys() >= {*MODES, "no guard"}, done.stdout
