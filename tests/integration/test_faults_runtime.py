"""The runtime directory: a second guard, what a killed one left, and places that can't be used."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.disks import full_disk, read_only_disk
from beds.guard import PROGRAM, Guard
from beds.handling import NOBODY_S, TERM_SECONDS, look, term, wait_look, warned

NOWHERE = "http://127.0.0.1:9"
"""The discard port: nobody listens there."""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    """A guard that is not started yet."""
    built = Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path)
    yield built
    built.stop()


def refused(guard: Guard) -> str:
    """Start one that must be refused with 1; its only sentence."""
    done = guard.cli("run", "--config", str(guard.config), timeout=15)
    assert done.returncode == 1, (done.stdout, done.stderr)
    (sentence,) = done.stderr.splitlines()
    return sentence


def test_a_second_guard_is_refused_and_the_first_is_undisturbed(guard: Guard) -> None:
    """It is refused before it writes anything: not even its file becomes the last good one."""
    guard.start()
    wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
    kept = (guard.state / "last-good.toml").read_text()
    inodes = {name: (guard.runtime / name).stat().st_ino for name in ("status.sock", "control.sock", "state")}
    guard.config.write_text(f'{guard.config.read_text()}\n[policy]\nmode = "observe"\n')
    sentence = refused(guard)
    assert f"another ollama-guard (PID {guard.pid}) already guards" in sentence
    assert (guard.state / "last-good.toml").read_text() == kept
    assert {name: (guard.runtime / name).stat().st_ino for name in inodes} == inodes
    assert look(guard)["mode"] == "enforce"
    assert guard.cli("resume").returncode == 0
    assert not guard.events("config.reloaded")


def test_what_a_killed_guard_left_behind_is_taken_over(guard: Guard) -> None:
    """Sockets and lock of a guard that was killed are stale, and a pause in its state map is not."""
    guard.start()
    wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
    assert guard.cli("pause", "10m").returncode == 0
    first = guard.pid
    os.kill(guard.hands_pid, signal.SIGKILL)  # else they take their sockets away when the sentinel is gone
    guard.kill()
    assert stat.S_ISSOCK((guard.runtime / "status.sock").stat().st_mode)
    assert (guard.runtime / "lock").read_text().strip() == str(first)
    guard.start()
    wait_look(guard, lambda told: told["mode"] == "paused", "the pause is still in force")


@pytest.mark.parametrize("left", ["garbage", "torn"])
def test_a_damaged_state_map_is_said_and_replaced(guard: Guard, left: str) -> None:
    """The guard starts fresh, and what it writes from then on survives the next crash."""
    guard.runtime.mkdir()
    (guard.runtime / "state").write_bytes(os.urandom(3_000_000) if left == "garbage" else b"OGSTATE1\1")
    guard.start()
    wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
    assert len(warned(guard, "starting with a fresh state: the state map is damaged")) == 1
    if left == "torn":
        assert guard.cli("pause", "10m").returncode == 0
        guard.kill()
        guard.start()
        wait_look(guard, lambda told: told["mode"] == "paused", "the pause is still in force")
        assert len(warned(guard, "starting with a fresh state")) == 1


@pytest.mark.parametrize("what", ["a link", "a pipe"])
def test_what_is_no_state_map_is_said_and_left_alone(guard: Guard, what: str) -> None:
    guard.runtime.mkdir()
    path = guard.runtime / "state"
    if what == "a link":
        path.symlink_to(guard.home / "elsewhere")
    else:
        os.mkfifo(path)
    guard.start()
    (sentence,) = warned(guard, "pause and condemned models would not survive")
    assert str(path) in sentence
    wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
    assert not (guard.home / "elsewhere").exists()
    assert term(guard) < TERM_SECONDS


def test_a_file_in_the_runtime_directory_s_place_is_one_sentence(guard: Guard) -> None:
    guard.runtime.write_text("")
    assert f"the runtime directory {guard.runtime} can't be used: it is no directory" in refused(guard)


def test_a_runtime_directory_below_a_file_is_one_sentence(guard: Guard) -> None:
    (guard.home / "file").write_text("")
    done = guard.cli("run", "--config", str(guard.config), "--runtime-dir", str(guard.home / "file" / "run"))
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "it is no directory" in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_runtime_directory_is_one_sentence(guard: Guard) -> None:
    try:
        with read_only_disk(guard.runtime):
            sentence = refused(guard)
    except BedUnavailable as problem:
        pytest.skip(str(problem))
    assert f"the runtime directory {guard.runtime} can't be used: Read-only file system" in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_runtime_directory_of_somebody_else_is_one_sentence(guard: Guard) -> None:
    guard.runtime.mkdir(mode=0o755)
    os.chown(guard.runtime, 65534, 65534)
    # Without these two capabilities even root is bound by file modes.
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    argv = [*bound, str(PROGRAM), "run", "--config", str(guard.config), "--runtime-dir", str(guard.runtime)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=15)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "can't be used: Permission denied" in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_runtime_directory_costs_the_memory_and_not_the_guard(guard: Guard) -> None:
    """No room for the state map: it guards without, and says so once."""
    try:
        with full_disk(guard.runtime):
            guard.start()
            wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
            (sentence,) = warned(guard, "pause and condemned models would not survive")
            assert "No space left" in sentence
            assert term(guard) < TERM_SECONDS
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def test_started_with_its_standard_streams_closed_it_keeps_the_log_out_of_its_files(guard: Guard) -> None:
    """Nobody's stderr: the numbers 0, 1 and 2 must not become the lock's or the policy's."""
    script = "import os, sys\n[os.close(fd) for fd in (0, 1, 2)]\nos.execv(sys.argv[1], sys.argv[1:])"
    argv = [sys.executable, "-c", script, str(PROGRAM), "run", "--config", str(guard.config)]
    process = subprocess.Popen(argv, env=guard._env)
    try:
        for _ in range(1000):
            with contextlib.suppress(OSError, KeyError):  # not there yet, or starting
                if look(guard)["guard"]["pid"] == process.pid:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"it ended with {process.wait(0.01)}")
        streams = {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in (0, 1, 2)}
        assert streams == {"/dev/null"}
        assert (guard.runtime / "lock").read_text() == f"{process.pid}\n"
    finally:
        process.terminate()
        process.wait(10)
