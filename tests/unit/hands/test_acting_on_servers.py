"""What is done to a server ends in exactly one outcome each, with a sentence that says what was left out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.core.runtime import Limits, RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.acting_on_servers import ServerActor
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.lanes import GRACE_SECONDS
from ollama_guard.hands.remembered import StoppedRuntimes
from ollama_guard.hands.runtimes import Known
from ollama_guard.testing.runtimes import FakeRuntime

GIB = 1024**3
RUNNING = RuntimeReading(
    RuntimeKind.DOCKER,
    "ollama",
    RuntimeState.RUNNING,
    verbs=("stop", "start", "limit"),
    constrainable=True,
)
LINES = (("OLLAMA_MAX_LOADED_MODELS", "1"), ("OLLAMA_KEEP_ALIVE", "30s"))


class Bed:
    """The actor over one fake runtime."""

    def __init__(self, loop: Any, folder: Path) -> None:
        self.loop = loop
        self.runtime = FakeRuntime([RUNNING])
        self.reading: RuntimeReading | None = RUNNING
        self.environment = EnvironmentFile(folder)
        self.acted = 0
        self.actor = ServerActor(
            self._known,
            self.environment,
            loop.mailbox,
            loop.send,
            loop.clock,
            self._count,
            StoppedRuntimes(folder, "this boot"),
        )

    def _known(self, name: str) -> Known | None:
        assert name == "ollama"
        return None if self.reading is None else Known(self.reading, lambda: self.runtime)

    def _count(self) -> None:
        self.acted += 1

    def do(self, kind: ActionKind, **changes: Any) -> Outcome:
        """Carry one action out; the clock stands still, so its deadline is 5 s away."""
        values: dict[str, Any] = {
            "rung": Rung.PLAYBOOK,
            "deadline_at": self.loop.now + 5.0,
            "runtime": "ollama",
        }
        self.actor.act(Action(7, kind, **(values | changes)))
        self.loop.run_until(lambda: bool(self.loop.sent))
        (message,) = self.loop.sent
        self.loop.sent.clear()
        outcome: Outcome = message.outcome
        return outcome


@pytest.fixture
def bed(loop: Any, tmp_path: Path) -> Bed:
    return Bed(loop, tmp_path)


def test_constraining_writes_the_lines_and_sets_the_limits(bed: Bed) -> None:
    ended = bed.do(ActionKind.CONSTRAIN, environment=LINES, limits=Limits(3 * GIB, 2.0))
    assert ended.kind is OutcomeKind.DONE
    assert "2 lines in " in ended.detail
    assert "at most 3.0 GiB and 2 CPUs" in ended.detail
    assert bed.environment.read() == dict(LINES)
    assert bed.runtime.limits == {"ollama": Limits(3 * GIB, 2.0)}
    assert bed.acted == 1


def test_what_constraining_leaves_out_is_said(bed: Bed) -> None:
    bed.runtime.left_out = ("no memory limit of 3.0 GiB: it uses 5.0 GiB now",)
    ended = bed.do(ActionKind.CONSTRAIN, environment=LINES, limits=Limits(3 * GIB))
    assert ended.kind is OutcomeKind.DONE
    assert "it uses 5.0 GiB now" in ended.detail


def test_constraining_is_done_when_docker_hangs_since_the_file_counts(bed: Bed) -> None:
    bed.runtime.faults["limit"] = RuntimeFailed("hanging", "Docker did not answer in time")
    ended = bed.do(ActionKind.CONSTRAIN, environment=LINES, limits=Limits(3 * GIB))
    assert ended.kind is OutcomeKind.DONE
    assert "no live limits (hanging: Docker did not answer in time)" in ended.detail
    assert bed.environment.read() == dict(LINES)


def test_a_server_that_does_not_read_the_file_is_said(bed: Bed) -> None:
    bed.reading = replace(RUNNING, constrainable=False)
    ended = bed.do(ActionKind.CONSTRAIN, environment=LINES)
    assert ended.kind is OutcomeKind.DONE
    assert "ollama does not read them (`ollama-guard init` writes what it lacks)" in ended.detail


def test_a_line_that_may_not_stand_there_fails_and_changes_nothing(bed: Bed) -> None:
    ended = bed.do(ActionKind.CONSTRAIN, environment=(("LD_PRELOAD", "x"),), limits=Limits(GIB))
    assert ended.kind is OutcomeKind.FAILED
    assert ended.detail.startswith("refused: ")
    assert bed.runtime.asked == []


def test_a_stop_is_done_when_the_server_s_process_is_gone(bed: Bed) -> None:
    with subprocess.Popen(["sleep", "60"]) as server:
        bed.runtime.readings["ollama"] = replace(RUNNING, server_pid=server.pid)
        bed.reading = bed.runtime.readings["ollama"]
        later = threading.Timer(0.3, server.kill)
        bed.runtime.on_stop = later.start
        try:
            ended = bed.do(ActionKind.STOP)
            assert ended.kind is OutcomeKind.DONE
            assert server.poll() is not None or not Path(f"/proc/{server.pid}/exe").exists()
        finally:
            server.kill()
    assert "ollama is stopped" in ended.detail


def test_a_process_that_outlives_its_stop_is_stuck(bed: Bed) -> None:
    with subprocess.Popen(["sleep", "60"]) as server:
        bed.runtime.readings["ollama"] = replace(RUNNING, server_pid=server.pid)
        try:
            ended = bed.do(ActionKind.STOP, deadline_at=bed.loop.now + 0.3)
        finally:
            server.kill()
    assert ended.kind is OutcomeKind.FAILED
    assert ended.detail.startswith("stuck: ")
    assert str(server.pid) in ended.detail


def test_what_may_not_be_stopped_fails_with_the_reason(bed: Bed) -> None:
    bed.runtime.readings["ollama"] = replace(RUNNING, verbs=("limit",), cannot="it was run with --rm")
    ended = bed.do(ActionKind.STOP)
    assert (ended.kind, ended.detail) == (OutcomeKind.FAILED, "refused: it was run with --rm")
    assert bed.runtime.readings["ollama"].state is RuntimeState.RUNNING


def test_a_stop_that_never_answers_is_given_up_as_hanging_and_a_start_goes_past_it(bed: Bed) -> None:
    gate = bed.runtime.gates["stop"] = threading.Event()
    bed.actor.act(Action(7, ActionKind.STOP, Rung.PLAYBOOK, bed.loop.now + 5, runtime="ollama"))
    bed.actor.act(Action(8, ActionKind.START, Rung.PLAYBOOK, bed.loop.now + 50, runtime="ollama"))
    bed.loop.run_until(lambda: bool(bed.loop.sent))
    assert bed.loop.sent[0].outcome.action_id == 8
    bed.loop.now += 5 + GRACE_SECONDS + 0.1
    bed.actor.check()
    bed.loop.run_until(lambda: len(bed.loop.sent) == 2)
    ended = bed.loop.sent[1].outcome
    assert (ended.action_id, ended.kind) == (7, OutcomeKind.FAILED)
    assert ended.detail.startswith("hanging: ")
    gate.set()


def test_a_start_sets_first_the_limits_that_fit_only_now(bed: Bed) -> None:
    bed.runtime.readings["ollama"] = replace(RUNNING, state=RuntimeState.STOPPED)
    ended = bed.do(ActionKind.START, limits=Limits(3 * GIB))
    assert ended.kind is OutcomeKind.DONE
    assert [verb for verb, _ in bed.runtime.asked] == ["limit", "start"]
    assert bed.runtime.readings["ollama"].state is RuntimeState.RUNNING


def test_what_was_below_use_while_it_ran_is_set_at_the_start_until_release(bed: Bed) -> None:
    bed.runtime.left_out = ("it uses 5.0 GiB now",)
    bed.do(ActionKind.CONSTRAIN, environment=LINES, limits=Limits(3 * GIB))
    bed.do(ActionKind.STOP)
    bed.runtime.limits.clear()
    bed.do(ActionKind.START)
    assert bed.runtime.limits == {"ollama": Limits(3 * GIB)}
    bed.do(ActionKind.RELEASE)
    bed.do(ActionKind.START)
    assert bed.runtime.limits == {}


def test_a_limit_that_can_t_be_set_never_keeps_ollama_stopped(bed: Bed) -> None:
    bed.runtime.readings["ollama"] = replace(RUNNING, state=RuntimeState.STOPPED)
    bed.runtime.faults["limit"] = RuntimeFailed("refused", "no")
    assert bed.do(ActionKind.START, limits=Limits(3 * GIB)).kind is OutcomeKind.DONE


def test_release_takes_lines_and_limits_back(bed: Bed) -> None:
    bed.do(ActionKind.CONSTRAIN, environment=LINES, limits=Limits(3 * GIB))
    ended = bed.do(ActionKind.RELEASE)
    assert ended.kind is OutcomeKind.DONE
    assert bed.environment.read() == {}
    assert bed.runtime.limits == {}
    assert bed.do(ActionKind.RELEASE).kind is OutcomeKind.DONE


def test_release_is_done_without_a_runtime_and_fails_where_a_limit_stays(bed: Bed) -> None:
    bed.do(ActionKind.CONSTRAIN, environment=LINES)
    bed.runtime.faults["unlimit"] = RuntimeFailed("hanging", "no answer")
    assert bed.do(ActionKind.RELEASE).kind is OutcomeKind.FAILED
    assert bed.environment.read() == {}
    bed.runtime.faults["unlimit"] = RuntimeFailed("gone", "no such container")
    assert bed.do(ActionKind.RELEASE).kind is OutcomeKind.DONE
    bed.reading = None
    assert bed.do(ActionKind.RELEASE).kind is OutcomeKind.DONE


def test_a_restart_stops_and_starts_and_leaves_nothing_to_be_started(bed: Bed, tmp_path: Path) -> None:
    ended = bed.do(ActionKind.RESTART)
    assert (ended.kind, ended.detail) == (OutcomeKind.DONE, "ollama runs")
    assert [verb for verb, _ in bed.runtime.asked if verb in ("stop", "start")] == ["stop", "start"]
    assert bed.runtime.readings["ollama"].state is RuntimeState.RUNNING
    assert StoppedRuntimes(tmp_path, "the next boot").before_boot() == frozenset()


@pytest.mark.parametrize(
    "changes",
    [
        {"state": RuntimeState.STOPPED},
        {"state": RuntimeState.PAUSED},
        {"verbs": ("limit",), "cannot": "it was run with --rm"},
        {"verbs": ("stop",)},
    ],
)
def test_what_may_not_be_restarted_any_more_is_refused_and_left_alone(
    bed: Bed, changes: dict[str, Any]
) -> None:
    bed.runtime.readings["ollama"] = replace(RUNNING, **changes)
    ended = bed.do(ActionKind.RESTART)
    assert ended.kind is OutcomeKind.FAILED
    assert ended.detail.startswith("refused: ")
    assert {verb for verb, _ in bed.runtime.asked} == {"read"}


def test_a_server_with_a_child_has_a_model_loaded_and_is_not_restarted(bed: Bed) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60; true"]) as server:
        try:
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
            while not children.read_text():
                pass
            bed.reading = bed.runtime.readings["ollama"] = replace(RUNNING, server_pid=server.pid)
            ended = bed.do(ActionKind.RESTART)
        finally:
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGKILL)
            server.kill()
    assert ended.detail == "refused: a model of ollama has been loaded meanwhile"
    assert ("stop", "ollama") not in bed.runtime.asked


def test_a_restart_that_does_not_start_is_stuck_and_kept_as_stopped(bed: Bed, tmp_path: Path) -> None:
    """`refused` would mean that nothing was stopped."""
    bed.runtime.faults["start"] = RuntimeFailed("refused", "it ended at once, with exit code 1")
    ended = bed.do(ActionKind.RESTART)
    assert ended.kind is OutcomeKind.FAILED
    assert ended.detail.startswith(
        "stuck: ollama was stopped and does not run yet (refused: it ended at once"
    )
    assert StoppedRuntimes(tmp_path, "the next boot").before_boot() == {"ollama"}


@pytest.mark.parametrize("kind", [ActionKind.STOP, ActionKind.START, ActionKind.RESTART])
def test_an_unknown_runtime_is_absent(bed: Bed, kind: ActionKind) -> None:
    bed.reading = None
    ended = bed.do(kind)
    assert ended.kind is OutcomeKind.FAILED
    assert ended.detail.startswith("absent: ")


def test_an_action_past_its_deadline_is_skipped_and_nothing_done(bed: Bed) -> None:
    ended = bed.do(ActionKind.STOP, deadline_at=bed.loop.now - 1)
    assert ended.kind is OutcomeKind.SKIPPED
    assert bed.runtime.asked == []


def test_the_same_action_twice_is_carried_out_once_while_it_is_under_way(bed: Bed) -> None:
    gate = bed.runtime.gates["start"] = threading.Event()
    for _ in range(2):
        bed.actor.act(Action(7, ActionKind.START, Rung.PLAYBOOK, bed.loop.now + 5, runtime="ollama"))
    gate.set()
    bed.loop.run_until(lambda: bool(bed.loop.sent))
    with contextlib.suppress(AssertionError):
        bed.loop.mailbox.run()
    assert bed.runtime.asked == [("start", "ollama")]
    assert len(bed.loop.sent) == 1


def test_what_is_stopped_is_kept_for_the_next_boot_until_it_is_started(bed: Bed, tmp_path: Path) -> None:
    """Docker leaves down what it was asked to stop, also when the machine starts anew."""
    later = StoppedRuntimes(tmp_path, "the next boot")
    assert bed.do(ActionKind.STOP).kind is OutcomeKind.DONE
    assert later.before_boot() == {"ollama"}
    assert StoppedRuntimes(tmp_path, "this boot").before_boot() == frozenset()
    assert bed.do(ActionKind.START).kind is OutcomeKind.DONE
    assert later.before_boot() == frozenset()


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("refused", set()), ("denied", set()), ("hanging", {"ollama"}), ("stuck", {"ollama"}),
        ("absent", {"ollama"}), ("bad_answer", {"ollama"}),
    ],
)  # fmt: skip
def test_a_stop_that_was_refused_leaves_nothing_to_be_started(
    bed: Bed, tmp_path: Path, word: str, kept: set[str]
) -> None:
    bed.runtime.faults["stop"] = RuntimeFailed(word, "it says no")
    assert bed.do(ActionKind.STOP).kind is OutcomeKind.FAILED
    assert StoppedRuntimes(tmp_path, "the next boot").before_boot() == kept
