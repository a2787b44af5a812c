"""The kill rung on real children: memory really comes back, and nobody else is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from beds.freezer import Freezer
from ollama_guard.core.model import (
    Action,
    ActionKind,
    Outcome,
    OutcomeKind,
    Rung,
    RunnerReading,
    ServerReading,
)
from ollama_guard.sentinel import selftest
from ollama_guard.sentinel.clock import boottime
from ollama_guard.sentinel.poller import Poller
from ollama_guard.sentinel.reaper import Reaper
from ollama_guard.sentinel.reflexes import Reflexes

MIB = 1024**2
VICTIM = """
import sys, time
memory = bytearray(int(sys.argv[1]))
memory[::4096] = b"x" * len(memory[::4096])
print("full", flush=True)
time.sleep(600)
"""
# The same, but with USR1 its first thread ends, and another one goes on.
HEADLESS = """
import ctypes, platform, signal, sys, threading, time
memory = bytearray(int(sys.argv[1]))
memory[::4096] = b"x" * len(memory[::4096])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
threading.Thread(target=time.sleep, args=(600,)).start()
print("full", flush=True)
signal.sigwait([signal.SIGUSR1])
ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)
"""


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


def recheck(pid: int, expected: RunnerReading) -> str:
    """The start time only: what the sensors' own recheck does first."""
    with suppress(OSError):
        return "" if start_ticks(pid) == expected.start_ticks else "it started at another time"
    return "it is gone"


def recheck_server(pid: int, expected: ServerReading) -> str:
    """As `recheck`."""
    with suppress(OSError):
        return "" if start_ticks(pid) == expected.start_ticks else "it started at another time"
    return "it is gone"


class Bench:
    """A kill rung with its reaper, and victims of known size."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.reaper = Reaper()
        self.reaper.start()
        self.reflexes = Reflexes(self.poller, self.reaper, recheck, recheck_server)
        self.victims: list[subprocess.Popen[bytes]] = []

    def victim(self, size: int = 4 * MIB, script: str = VICTIM) -> subprocess.Popen[bytes]:
        """A child that holds this much memory."""
        process = subprocess.Popen([sys.executable, "-c", script, str(size)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        process.stdout.close()
        self.victims.append(process)
        return process

    def runner(self, pid: int) -> RunnerReading:
        """The child as the sensors would read it."""
        return RunnerReading(
            pid, start_ticks(pid), boottime(), os.getpid(), proven=True, proof="a test's child"
        )

    def server(self, pid: int) -> ServerReading:
        """The same for a server."""
        return ServerReading(pid, start_ticks(pid), 0, "/", "a test's child")

    def action(
        self,
        runner: RunnerReading | ServerReading,
        kind: ActionKind = ActionKind.KILL,
        number: int = 1,
        seconds: float = 5.0,
    ) -> Action:
        """An action about it."""
        return Action(
            number,
            kind,
            Rung.KILL_RUNNER,
            boottime() + seconds,
            pid=runner.pid,
            start_ticks=runner.start_ticks,
        )

    def outcomes(self, seconds: float = 5.0) -> list[Outcome]:
        """The first outcomes that come within this time."""
        deadline, ended = boottime() + seconds, list[Outcome]()
        while not ended and boottime() < deadline:
            self.poller.wait(0.05)
            ended = self.reflexes.collect(boottime())
        return ended

    def close(self) -> None:
        """End every child."""
        for victim in self.victims:
            victim.kill()
            victim.wait()
        self.reflexes.close()
        self.reaper.stop()
        self.poller.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_a_killed_runners_memory_is_back_and_counted(bench: Bench) -> None:
    victim = bench.victim(200 * MIB)
    runner = bench.runner(victim.pid)
    assert bench.reflexes.kill(bench.action(runner), runner, boottime()) is None
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.DONE
    assert 200 * MIB <= outcome.freed_bytes <= 230 * MIB
    assert victim.wait(1) == -signal.SIGKILL


def test_sending_the_kill_does_not_wait_for_the_freeing(bench: Bench) -> None:
    victim = bench.victim(400 * MIB)
    runner = bench.runner(victim.pid)
    started = time.perf_counter()
    bench.reflexes.kill(bench.action(runner), runner, boottime())
    assert time.perf_counter() - started < 0.02
    assert bench.outcomes()[0].kind is OutcomeKind.DONE


def test_the_reaper_releases_what_it_is_handed(bench: Bench) -> None:
    victim = bench.victim(50 * MIB)
    runner = bench.runner(victim.pid)
    bench.reflexes.kill(bench.action(runner), runner, boottime())
    bench.outcomes()
    deadline, reports = boottime() + 2, bench.reaper.reports()
    while not reports and boottime() < deadline:
        bench.poller.wait(0.01)
        reports = bench.reaper.reports()
    assert reports[0][0] == victim.pid


@pytest.mark.parametrize("ticks_off", [-1, 1, 100_000])
def test_another_start_time_means_another_process_and_nothing_is_signalled(
    bench: Bench, ticks_off: int
) -> None:
    victim = bench.victim()
    real = bench.runner(victim.pid)
    wrong = RunnerReading(
        victim.pid, real.start_ticks + ticks_off, 0.0, None, proven=True, proof="an old life"
    )
    outcome = bench.reflexes.kill(bench.action(wrong), wrong, boottime())
    assert outcome is not None
    assert outcome.kind is OutcomeKind.SKIPPED
    assert "another time" in outcome.detail
    assert victim.poll() is None


def test_a_runner_that_is_not_in_the_snapshot_is_not_signalled(bench: Bench) -> None:
    victim = bench.victim()
    outcome = bench.reflexes.kill(bench.action(bench.runner(victim.pid)), None, boottime())
    assert outcome is not None
    assert outcome.kind is OutcomeKind.SKIPPED
    assert victim.poll() is None


def test_a_runner_that_is_already_gone_is_skipped(bench: Bench) -> None:
    victim = bench.victim()
    runner = bench.runner(victim.pid)
    victim.kill()
    victim.wait()
    outcome = bench.reflexes.kill(bench.action(runner), runner, boottime())
    assert outcome is not None
    assert (outcome.kind, outcome.detail) == (OutcomeKind.SKIPPED, "freed by itself before we acted")


def test_a_zombie_is_not_killed_again(bench: Bench) -> None:
    victim = bench.victim()
    runner = bench.runner(victim.pid)
    os.kill(victim.pid, signal.SIGKILL)
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
    outcome = bench.reflexes.kill(bench.action(runner), runner, boottime())
    assert outcome is not None
    assert outcome.kind is OutcomeKind.SKIPPED


def test_a_stopped_runner_is_killed_all_the_same(bench: Bench) -> None:
    victim = bench.victim(50 * MIB)
    runner = bench.runner(victim.pid)
    os.kill(victim.pid, signal.SIGSTOP)
    bench.reflexes.kill(bench.action(runner), runner, boottime())
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.DONE
    assert outcome.freed_bytes >= 50 * MIB


def test_an_unload_is_done_when_the_runner_is_gone_not_when_it_was_accepted(bench: Bench) -> None:
    victim = bench.victim(50 * MIB)
    runner = bench.runner(victim.pid)
    action = bench.action(runner, ActionKind.UNLOAD)
    assert bench.reflexes.watch(action, runner, boottime()) is None
    assert bench.reflexes.reported(Outcome(1, OutcomeKind.DONE, boottime(), detail="accepted")) is None
    assert bench.outcomes(0.1) == []
    victim.terminate()
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.DONE
    assert outcome.freed_bytes >= 50 * MIB


def test_an_unload_that_is_accepted_and_not_honoured_fails(bench: Bench) -> None:
    runner = bench.runner(bench.victim().pid)
    bench.reflexes.watch(bench.action(runner, ActionKind.UNLOAD, seconds=0.2), runner, boottime())
    bench.reflexes.reported(Outcome(1, OutcomeKind.DONE, boottime()))
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.FAILED
    assert "not honoured" in outcome.detail


def test_an_unload_that_ollama_refuses_fails_at_once(bench: Bench) -> None:
    runner = bench.runner(bench.victim().pid)
    bench.reflexes.watch(bench.action(runner, ActionKind.UNLOAD), runner, boottime())
    refused = Outcome(1, OutcomeKind.FAILED, boottime(), detail="http_error: 500")
    assert bench.reflexes.reported(refused) == refused
    assert bench.reflexes.next_deadline_at() is None


def test_an_action_without_a_process_ends_by_the_word_of_hands(bench: Bench) -> None:
    ghost = Action(5, ActionKind.PURGE_GHOST, Rung.NONE, boottime() + 5, model="a")
    assert bench.reflexes.watch(ghost, None, boottime()) is None
    done = Outcome(5, OutcomeKind.DONE, boottime())
    assert bench.reflexes.reported(done) == done


def test_dead_hands_fail_their_unloads_and_not_our_kills(bench: Bench) -> None:
    idle, doomed = bench.runner(bench.victim().pid), bench.runner(bench.victim().pid)
    bench.reflexes.watch(bench.action(idle, ActionKind.UNLOAD, 1), idle, boottime())
    bench.reflexes.kill(bench.action(doomed, number=2), doomed, boottime())
    (failed,) = bench.reflexes.abandon("hands died", boottime())
    assert (failed.action_id, failed.kind) == (1, OutcomeKind.FAILED)
    (killed,) = bench.outcomes()
    assert (killed.action_id, killed.kind) == (2, OutcomeKind.DONE)


def test_bytes_are_counted_once_when_a_kill_overtakes_an_unload(bench: Bench) -> None:
    runner = bench.runner(bench.victim(50 * MIB).pid)
    bench.reflexes.watch(bench.action(runner, ActionKind.UNLOAD, 1), runner, boottime())
    bench.reflexes.kill(bench.action(runner, number=2), runner, boottime())
    ended = bench.outcomes()
    while len(ended) < 2:
        ended += bench.outcomes()
    kinds = {outcome.action_id: outcome.kind for outcome in ended}
    assert kinds == {1: OutcomeKind.SKIPPED, 2: OutcomeKind.DONE}
    assert sum(outcome.freed_bytes for outcome in ended) < 80 * MIB


def test_without_a_reaper_a_kill_still_works(bench: Bench) -> None:
    assert bench.reaper.child is not None
    os.kill(bench.reaper.child.pid, signal.SIGKILL)
    bench.reaper.child.exited(1)
    bench.reaper.died()
    runner = bench.runner(bench.victim(20 * MIB).pid)
    bench.reflexes.kill(bench.action(runner), runner, boottime())
    assert bench.outcomes()[0].kind is OutcomeKind.DONE
    assert bench.reaper.dropped == 1


def test_a_killed_server_takes_its_own_runners_with_it_and_nobody_else(bench: Bench) -> None:
    """SIGKILL of a server leaves its runners behind, with all their memory (facts 2.7)."""
    server, others = bench.server(bench.victim().pid), bench.victim()
    own, orphan = bench.runner(bench.victim(60 * MIB).pid), bench.runner(bench.victim().pid)
    own = replace(own, server_pid=server.pid)
    unproven = replace(bench.runner(others.pid), server_pid=server.pid, proven=False)
    alien = replace(bench.runner(bench.victim().pid), server_pid=1)
    action = bench.action(server, ActionKind.KILL_SERVER)
    assert bench.reflexes.kill_server(action, server, (own, orphan, unproven, alien), boottime()) is None
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.DONE, outcome.detail
    assert "1 runner of it as well" in outcome.detail
    assert outcome.freed_bytes >= 60 * MIB
    ended = {process.pid for process in bench.victims if process.poll() is not None}
    assert ended == {server.pid, own.pid}


def test_a_server_pid_that_somebody_else_has_now_is_not_signalled_and_no_runner_is(bench: Bench) -> None:
    server = bench.server(bench.victim().pid)
    wrong = replace(server, start_ticks=server.start_ticks - 1)
    runner = replace(bench.runner(bench.victim().pid), server_pid=server.pid)
    outcome = bench.reflexes.kill_server(
        bench.action(wrong, ActionKind.KILL_SERVER), wrong, (runner,), boottime()
    )
    assert outcome is not None
    assert (outcome.kind, "another time" in outcome.detail) == (OutcomeKind.SKIPPED, True)
    assert [process.poll() for process in bench.victims] == [None, None]


def test_a_runner_that_is_another_process_by_now_survives_its_supposed_server(bench: Bench) -> None:
    server = bench.server(bench.victim().pid)
    stranger = replace(bench.runner(bench.victim().pid), server_pid=server.pid, start_ticks=1)
    bench.reflexes.kill_server(bench.action(server, ActionKind.KILL_SERVER), server, (stranger,), boottime())
    (outcome,) = bench.outcomes()
    assert (outcome.kind, "runner" in outcome.detail) == (OutcomeKind.DONE, False)
    assert bench.victims[1].poll() is None


def test_a_server_that_is_not_in_the_snapshot_is_not_signalled(bench: Bench) -> None:
    server = bench.server(bench.victim().pid)
    outcome = bench.reflexes.kill_server(bench.action(server, ActionKind.KILL_SERVER), None, (), boottime())
    assert outcome is not None
    assert outcome.kind is OutcomeKind.SKIPPED
    assert bench.victims[0].poll() is None


def test_a_server_in_the_kernel_fails_with_a_sentence_that_says_so(bench: Bench, freezer: Freezer) -> None:
    """A frozen v1 cgroup stands in for a disk that never answers: state D, and SIGKILL waits."""
    victim, child = bench.victim(), bench.victim()
    server = bench.server(victim.pid)
    runner = replace(bench.runner(child.pid), server_pid=server.pid)
    if not freezer.is_v1:
        pytest.skip("a frozen process of a v2 cgroup can be killed")
    freezer.take(victim.pid)
    freezer.freeze()
    action = bench.action(server, ActionKind.KILL_SERVER, seconds=0.5)
    assert bench.reflexes.kill_server(action, server, (runner,), boottime()) is None
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.FAILED
    assert "in the kernel (state D)" in outcome.detail
    assert child.wait(1) == -signal.SIGKILL
    assert victim.poll() is None
    freezer.thaw()
    assert victim.wait(5) == -signal.SIGKILL


def test_a_server_is_gone_even_if_a_runner_of_it_hangs_in_the_kernel(bench: Bench, freezer: Freezer) -> None:
    server, child = bench.server(bench.victim().pid), bench.victim()
    runner = replace(bench.runner(child.pid), server_pid=server.pid)
    if not freezer.is_v1:
        pytest.skip("a frozen process of a v2 cgroup can be killed")
    freezer.take(child.pid)
    freezer.freeze()
    action = bench.action(server, ActionKind.KILL_SERVER, seconds=0.5)
    bench.reflexes.kill_server(action, server, (runner,), boottime())
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.DONE
    assert f"pid {child.pid}" in outcome.detail
    assert "in the kernel (state D)" in outcome.detail
    freezer.thaw()


def behead(pid: int) -> None:
    """Let the first thread of a process end, and wait until it is a zombie."""
    os.kill(pid, signal.SIGUSR1)
    deadline = boottime() + 5
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert boottime() < deadline
        time.sleep(0.01)


def test_memory_that_other_threads_still_hold_has_not_come_back(bench: Bench, freezer: Freezer) -> None:
    """The first thread has ended and shows no memory any more; others hang in the kernel with all of it."""
    if not freezer.is_v1:
        pytest.skip("a frozen process of a v2 cgroup can be killed")
    victim = bench.victim(100 * MIB, HEADLESS)
    runner = bench.runner(victim.pid)
    unload = bench.action(runner, ActionKind.UNLOAD, seconds=0.5)
    assert bench.reflexes.watch(unload, runner, boottime()) is None
    behead(victim.pid)
    freezer.take(victim.pid)
    freezer.freeze()
    (outcome,) = bench.outcomes()
    assert (outcome.kind, outcome.freed_bytes) == (OutcomeKind.FAILED, 0)
    freezer.thaw()
    assert bench.reflexes.kill(bench.action(runner, number=2), runner, boottime()) is None
    (outcome,) = bench.outcomes()
    assert outcome.kind is OutcomeKind.DONE
    assert 100 * MIB <= outcome.freed_bytes <= 130 * MIB


def test_what_hands_do_to_a_server_is_ended_by_their_word_alone(bench: Bench) -> None:
    server = bench.server(bench.victim().pid)
    stop = bench.action(server, ActionKind.STOP)
    assert bench.reflexes.watch(stop, None, boottime()) is None
    done = Outcome(1, OutcomeKind.DONE, boottime())
    assert bench.reflexes.reported(done) == done


def test_the_self_test_runs_the_whole_kill_path(bench: Bench) -> None:
    event = selftest.kill_path(bench.reaper, recheck)
    assert event.fields["may"] is True, event.message
    assert int(event.fields["freed_bytes"] or 0) >= 4 * MIB
    assert "process_mrelease is allowed" in event.message


def test_no_descriptor_is_left_behind(bench: Bench) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        victim = bench.victim()
        runner = bench.runner(victim.pid)
        bench.reflexes.kill(bench.action(runner, number=number), runner, boottime())
        bench.outcomes()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
