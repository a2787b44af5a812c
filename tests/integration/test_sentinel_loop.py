"""The sentinel's process as a whole: it starts, acts, reloads, remembers and ends as promised."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beds.handling import TERM_SECONDS
from ollama_guard.core.codec import to_plain
from ollama_guard.core.model import (
    HOST,
    DomainReading,
    RunnerReading,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.pace import RESTING_SECONDS
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.sentinel.clock import boottime

DRIVER = str(Path(__file__).with_name("guard_driver.py"))
HOLD = (
    "import sys, time; memory = bytearray(int(sys.argv[1])); memory[::4096] = b'x' * len(memory[::4096]);"
    "print('full', flush=True); time.sleep(600)"
)


class Guard:
    """One running sentinel, its log as it comes, and the world that it is shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = folder / "world.json"
        self.events: list[dict[str, Any]] = []
        self.process: subprocess.Popen[str] | None = None
        self.children: list[subprocess.Popen[bytes]] = []
        self.notified: list[str] = []
        self._notify: socket.socket | None = None
        self.show(3 * GIB)

    def show(self, available: int, *runners: RunnerReading) -> None:
        """Let the sensors read this much of 4 GiB available, and these runners."""
        snapshot = Snapshot(
            0.0, 0.0, (DomainReading(HOST, 4 * GIB, available),),
            (ServerReading(os.getpid(), 1, 0, "/", "a test"),), runners,
        )  # fmt: skip
        fresh = self.world.with_suffix(".new")
        fresh.write_text(json.dumps(to_plain(snapshot)))
        fresh.replace(self.world)

    def runner(self, size: int) -> RunnerReading:
        """A real child with this much memory, as a runner that has been there for five minutes."""
        child = subprocess.Popen([sys.executable, "-c", HOLD, str(size)], stdout=subprocess.PIPE)
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"full\n"
        child.stdout.close()
        ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        return RunnerReading(
            child.pid, ticks, boottime() - 300, os.getpid(), proven=True, proof="a test's child",
            blob="sha256:" + "ab" * 32, blob_bytes=size, anon_bytes=size, shmem_bytes=0, file_bytes=0,
            swap_bytes=0, cpu_seconds=1.0, process_state="S",
        )  # fmt: skip

    def start(self, role: str = "beat", *compile_argv: str) -> None:
        """Start the sentinel, its hands playing a role."""
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        self._notify.bind(str(path))
        self._notify.settimeout(0.05)
        environ = {**os.environ, "OLLAMA_GUARD_LOG": "json", "NOTIFY_SOCKET": str(path)}
        self.process = subprocess.Popen(
            [sys.executable, DRIVER, str(self.folder), str(self.world), role, *compile_argv],
            stderr=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._follow, args=(self.process.stderr,))
        self._reader.start()

    def _follow(self, stream: Any) -> None:
        with stream:
            for line in stream:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.events.append({"event": "raw", "message": line})

    def listen(self) -> list[str]:
        """Everything that was said to the service manager so far."""
        assert self._notify is not None
        while True:
            try:
                self.notified += self._notify.recv(4096).decode().splitlines()
            except TimeoutError:
                return self.notified

    def wait_for(self, name: str, seconds: float = 10.0, text: str = "") -> dict[str, Any]:
        """The first event of a name whose sentence contains ``text``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [e for e in list(self.events) if e["event"] == name and text in e["message"]]
            if found:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no {name} {text!r} in {self.events}")

    def told(self, name: str) -> list[dict[str, Any]]:
        """Every event of a name so far."""
        return [e for e in list(self.events) if e["event"] == name]

    def signal(self, number: int) -> None:
        """Send the sentinel a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, seconds: float = 3.0) -> int:
        """Send TERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self._reader.join(1.0)
        return status

    def forget(self) -> None:
        """Drop what the last process said, once it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._reader.join()
        if self._notify is not None:
            self._notify.close()
        self.events.clear()

    def close(self) -> None:
        """End everything."""
        self.forget()
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    built = Guard(tmp_path)
    yield built
    built.close()


def test_it_says_who_starts_and_what_it_may_do_and_is_ready_in_seconds(guard: Guard) -> None:
    started = time.monotonic()
    guard.start()
    while "READY=1" not in guard.listen():
        assert time.monotonic() - started < 5
    assert guard.wait_for("guard.started")["mode"] == "enforce"
    subjects = {e["subject"] for e in guard.told("guard.tested")}
    assert {
        "kill",
        "kill_path",
        "mlockall",
        "oom_score_adj",
        "proc",
        "runtime_dir",
        "sd_notify",
        "journal",
        "memory",
    } <= subjects
    assert any(
        line.startswith("STATUS=level ok; host 3.0 GiB of 4.0 GiB available") for line in guard.listen()
    )


def test_term_ends_it_in_time_and_leaves_nobody_behind(guard: Guard) -> None:
    guard.start("deaf")
    guard.wait_for("guard.tested", text="sd_notify")
    time.sleep(0.5)
    assert guard.process is not None
    family = Path(f"/proc/{guard.process.pid}/task/{guard.process.pid}/children").read_text().split()
    started = time.monotonic()
    assert guard.end() == 0
    assert time.monotonic() - started < TERM_SECONDS
    assert guard.wait_for("guard.stopping")["message"] == "stopping: SIGTERM received"
    assert "STOPPING=1" in guard.listen()
    assert family
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def test_at_critical_the_only_runner_is_killed_and_its_bytes_are_told(guard: Guard) -> None:
    victim = guard.runner(300 * MIB)
    guard.show(3 * GIB, victim)
    guard.start("mute")
    guard.wait_for("guard.tested", text="sd_notify")
    guard.show(50 * MIB, victim)
    killed = guard.wait_for("runner.killed")
    assert killed["pid"] == victim.pid
    assert killed["freed_bytes"] >= 300 * MIB
    assert guard.children[0].wait(1) == -signal.SIGKILL
    assert guard.told("decision.made")


def test_a_guard_at_rest_acts_at_its_next_glance(guard: Guard) -> None:
    """Its next tick is seconds away, and nothing but memory has changed."""
    victim = guard.runner(100 * MIB)
    guard.show(3 * GIB, victim)
    guard.start()
    guard.wait_for("guard.tested", text="sd_notify")
    time.sleep(9.0)  # idle is proven in two seconds, a rest begins five later
    beats = guard.listen().count("WATCHDOG=1")
    time.sleep(RESTING_SECONDS + 0.5)
    assert guard.listen().count("WATCHDOG=1") - beats in (1, 2)
    guard.show(50 * MIB, victim)
    shown = time.monotonic()
    guard.wait_for("runner.killed")
    assert time.monotonic() - shown < RESTING_SECONDS / 2


def test_a_runner_under_another_start_time_is_never_touched(guard: Guard) -> None:
    victim = guard.runner(50 * MIB)
    guard.show(3 * GIB)
    guard.start("mute")
    guard.wait_for("guard.tested", text="sd_notify")
    guard.show(50 * MIB, replace(victim, start_ticks=victim.start_ticks + 1))
    time.sleep(1.0)
    assert guard.children[0].poll() is None
    assert guard.told("runner.killed") == []


def test_hands_that_die_are_told_and_the_guard_still_kills(guard: Guard) -> None:
    victim = guard.runner(100 * MIB)
    guard.show(3 * GIB, victim)
    guard.start("die")
    assert "exit status 3" in guard.wait_for("hands.restarted")["message"]
    guard.show(50 * MIB, victim)
    assert guard.wait_for("runner.killed")["pid"] == victim.pid


def test_where_a_playbook_stands_is_written_down_before_each_step_is_posted(guard: Guard) -> None:
    """Hands read the state map the moment that they are told of a step: it is there already."""
    guard.start("playbook")
    told = guard.wait_for("playbook.finished", 20)
    assert "freeze done" in told["message"]
    steps = [e["message"].split()[1:] for e in guard.told("raw") if e["message"].startswith("STEP")]
    assert [step for step, *_ in steps] == ["constrain", "stop", "start", "verify"]
    assert all(words == ["written"] for _, *words in steps), steps


def test_a_guard_that_was_killed_after_the_stop_starts_ollama_again(guard: Guard) -> None:
    guard.start("playbook-stuck")
    guard.wait_for("raw", text="STEP stop written")
    guard.signal(signal.SIGKILL)
    guard.forget()
    guard.start("playbook-resumed")
    guard.wait_for("playbook.finished", 20)
    steps = [e["message"].split()[1] for e in guard.told("raw") if e["message"].startswith("STEP")]
    assert steps == ["stop", "start", "verify"]


def test_a_pause_is_answered_and_survives_kill_9(guard: Guard) -> None:
    victim = guard.runner(50 * MIB)
    guard.start("pause")
    guard.wait_for("pause.started")
    guard.wait_for("raw", text="REPLIED 42 True paused for")
    guard.signal(signal.SIGKILL)
    assert guard.process is not None
    guard.process.wait()
    guard.forget()
    guard.start("mute")
    assert guard.wait_for("guard.started")["mode"] == "paused"
    guard.show(50 * MIB, victim)
    guard.wait_for("decision.made", text="would have")
    assert guard.children[0].poll() is None


def test_a_tick_that_fails_is_told_and_feeds_no_watchdog_and_the_guard_goes_on(guard: Guard) -> None:
    guard.start()
    while "WATCHDOG=1" not in guard.listen():
        pass
    guard.world.unlink()
    warned = guard.wait_for("guard.warned", text="a tick failed")
    assert "FileNotFoundError" in warned["message"]
    time.sleep(0.3)
    guard.listen()
    guard.notified.clear()
    time.sleep(2.0)
    assert "WATCHDOG=1" not in guard.listen()
    guard.show(3 * GIB)
    deadline = time.monotonic() + 8
    while "WATCHDOG=1" not in guard.listen():
        assert time.monotonic() < deadline


def test_usr1_logs_the_state_on_one_line(guard: Guard) -> None:
    guard.start()
    guard.wait_for("guard.tested", text="sd_notify")
    time.sleep(0.3)
    guard.signal(signal.SIGUSR1)
    reported = guard.wait_for("guard.reported")
    assert reported["level"] == "ok"
    assert reported["pss_bytes"] > MIB
    assert re.fullmatch(
        r"level ok; host [0-9.]+ GiB of 4\.0 GiB available; no model in memory; "
        r"the guard itself: [0-9.]+ MiB, [0-9.]+ s of CPU time so far, 0 messages lost; "
        r"hands are (alive|starting)",
        reported["message"],
    )


def compiler(folder: Path, text: str) -> tuple[str, ...]:
    script = folder / "compile.py"
    script.write_text(text)
    return (sys.executable, str(script))


def reloaded(guard: Guard, script: str) -> Callable[[], None]:
    guard.start("beat", *compiler(guard.folder, script))
    guard.wait_for("guard.tested", text="sd_notify")
    while "READY=1" not in guard.listen():
        pass
    guard.notified.clear()
    return lambda: guard.signal(signal.SIGHUP)


def wait_reloaded(guard: Guard, times: int) -> None:
    deadline = time.monotonic() + 10
    while len(guard.told("config.reloaded")) < times:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_hup_takes_a_good_file(guard: Guard) -> None:
    plain = to_plain(Policy())
    plain["ollama"]["mode"] = "observe"
    hup = reloaded(guard, f"print({json.dumps(json.dumps(plain))})")
    hup()
    guard.wait_for("config.reloaded")
    said = guard.listen()
    assert said.index("RELOADING=1") < said.index("READY=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in said)
    victim = guard.runner(50 * MIB)
    guard.show(50 * MIB, victim)
    guard.wait_for("decision.made", text="would have")
    assert guard.children[0].poll() is None


def test_hup_keeps_the_old_policy_and_says_why(guard: Guard) -> None:
    hup = reloaded(guard, "import sys; sys.exit('[thresholds.host] soft: 120% is more than 100%')")
    hup()
    rejected = guard.wait_for("config.rejected")
    assert "120% is more than 100%" in rejected["message"]
    assert "READY=1" in guard.listen()
    victim = guard.runner(50 * MIB)
    guard.show(50 * MIB, victim)
    guard.wait_for("runner.killed")


@pytest.mark.parametrize("output", ["not json", "{}x", '{"nonsense": 1}', "[1, 2]", ""])
def test_hup_refuses_what_is_no_policy(guard: Guard, output: str) -> None:
    hup = reloaded(guard, f"print({output!r})")
    hup()
    guard.wait_for("config.rejected")


def test_a_compiler_that_hangs_is_given_up_while_the_guard_goes_on(guard: Guard) -> None:
    hup = reloaded(guard, "import time; time.sleep(600)")
    hup()
    victim = guard.runner(50 * MIB)
    guard.show(50 * MIB, victim)
    guard.wait_for("runner.killed", seconds=3)
    assert guard.told("config.rejected") == []
    assert "longer than 10 s" in guard.wait_for("config.rejected", seconds=12)["message"]
    assert guard.end() == 0


def test_a_policy_is_taken_even_if_keeping_its_copy_hangs(guard: Guard) -> None:
    text = json.dumps(json.dumps(to_plain(Policy())))
    hup = reloaded(guard, f"import os, time; os.write(1, {text}.encode()); os.close(1); time.sleep(600)")
    hup()
    guard.wait_for("config.reloaded", seconds=4)
    assert guard.end() == 0


def test_readings_that_hang_on_a_disk_do_not_pile_up(guard: Guard) -> None:
    """Each hanging one would stay as a process until the disk answers: the third is refused at once."""
    text = json.dumps(json.dumps(to_plain(Policy())))
    hup = reloaded(guard, f"import os, time; os.write(1, {text}.encode()); os.close(1); time.sleep(600)")
    for count in (1, 2):
        hup()
        wait_reloaded(guard, count)
    hup()
    assert "2 earlier readings still wait" in guard.wait_for("config.rejected", seconds=1)["message"]
    assert guard.end() == 0


def test_a_second_hup_during_a_reload_makes_another_one(guard: Guard) -> None:
    text = json.dumps(json.dumps(to_plain(Policy())))
    hup = reloaded(guard, f"import time; time.sleep(0.4); print({text})")
    hup()
    time.sleep(0.1)
    hup()
    wait_reloaded(guard, 2)


def test_hands_are_told_when_memory_is_short_and_when_it_no_longer_is(guard: Guard) -> None:
    """Each poll is a line in the owner's log, so the quick ones must end with the shortage."""
    guard.show(GIB // 4)
    guard.start()
    guard.wait_for("raw", text="POLL pressed=True")
    guard.show(3 * GIB)
    guard.wait_for("raw", text="POLL pressed=False")
