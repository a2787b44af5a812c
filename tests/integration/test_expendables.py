"""The kernel is told, once for each runner, whom to take first; on real processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.core.expendable import OOM_SCORE_ADJ
from ollama_guard.core.model import RunnerReading, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import Durable
from ollama_guard.sentinel import selftest
from ollama_guard.sentinel.expendables import Expendables
from ollama_guard.sentinel.reaper import Reaper


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


def score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def seen(pid: int, start_ticks: int = 1) -> Snapshot:
    return Snapshot(10.0, 0.0, runners=(RunnerReading(pid, start_ticks, 0.0, 1, proven=True, proof=""),))


def follow(expendables: Expendables, snapshot: Snapshot) -> list[str]:
    return [event.message for event in expendables.follow(Policy(), Durable(), snapshot)]


def test_a_runner_is_raised_at_its_first_sight_and_then_left_alone(process: subprocess.Popen[bytes]) -> None:
    expendables = Expendables(lambda *_: "")
    assert follow(expendables, seen(process.pid)) == []
    assert score(process.pid) == OOM_SCORE_ADJ
    Path(f"/proc/{process.pid}/oom_score_adj").write_text("700")  # somebody else's word, later
    follow(expendables, seen(process.pid))
    assert score(process.pid) == 700


def test_one_that_has_more_already_keeps_it(process: subprocess.Popen[bytes]) -> None:
    Path(f"/proc/{process.pid}/oom_score_adj").write_text("900")
    follow(Expendables(lambda *_: ""), seen(process.pid))
    assert score(process.pid) == 900


def test_another_process_by_that_pid_is_not_raised(process: subprocess.Popen[bytes]) -> None:
    before = score(process.pid)
    assert follow(Expendables(lambda *_: "it started at another time"), seen(process.pid)) == []
    assert score(process.pid) == before


def test_one_that_has_gone_is_no_problem(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert follow(Expendables(lambda *_: ""), seen(process.pid)) == []


def test_a_refusal_is_told_once(tmp_path: Path) -> None:
    """A folder in the place of the file stands in for rights that are missing, which root never misses."""
    for pid in (70, 71):
        (tmp_path / str(pid) / "oom_score_adj").mkdir(parents=True)
    expendables = Expendables(lambda *_: "", str(tmp_path))
    (told,) = follow(expendables, seen(70))
    assert "as anybody" in told
    assert follow(expendables, seen(71)) == []


def test_the_self_test_says_whose_runners_and_leaves_its_own_child_as_it_was() -> None:
    reaper = Reaper()
    reaper.start()
    try:
        assert reaper.child is not None
        before = score(reaper.child.pid)
        event = selftest.runners_die_first(reaper)
        assert event.fields["may"] is True
        assert ("any user" in event.message) == selftest.has_capability(1)
        assert (score(reaper.child.pid), score(os.getpid())) == (before, before)
    finally:
        reaper.stop()
