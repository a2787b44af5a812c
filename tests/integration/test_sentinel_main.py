"""The daemon's command line: who may start, with what, and what is refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from beds.handling import TERM_SECONDS
from ollama_guard.core.codec import to_plain
from ollama_guard.core.policy import Policy

POLICY = json.dumps(to_plain(Policy())).encode()


class Starter:
    """Starts sentinels that only observe, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def __call__(
        self, policy: bytes = POLICY, runtime_dir: Path | None = None, within: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start one with this policy on its descriptor."""
        fd = os.memfd_create("policy")
        os.write(fd, policy)
        os.lseek(fd, 0, os.SEEK_SET)
        argv = [
            *within, sys.executable, "-I", "-m", "ollama_guard.sentinel",
            "--policy-fd", str(fd), "--mode", "observe",
            "--runtime-dir", str(runtime_dir or self.folder), "--state-dir", str(self.folder),
            "--warning", "a sentence from the start",
        ]  # fmt: skip
        environ = {**os.environ, "OLLAMA_GUARD_LOG": "line"}
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, pass_fds=(fd,), env=environ)
        os.close(fd)
        self.started.append(process)
        return process

    def close(self) -> None:
        """End everything."""
        for process in self.started:
            with suppress(ProcessLookupError):
                process.kill()
            process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    starter.close()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The first line on stderr that contains the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended without {text!r}")


def refused(process: subprocess.Popen[str], status: int) -> str:
    """The only line that a start which is refused says."""
    _, err = process.communicate(timeout=10)
    assert process.returncode == status
    (line,) = err.splitlines()
    return line


def test_it_runs_and_ends_with_0(start: Starter) -> None:
    process = start()
    line_with(process, "mode observe")
    line_with(process, "a sentence from the start")
    line_with(process, "the kill path works")
    process.terminate()
    assert "SIGTERM received" in line_with(process, "guard.stopping")
    assert process.wait(3) == 0


def test_all_of_its_memory_is_locked_and_what_it_never_touched_is_not_made_resident(start: Starter) -> None:
    """Without ONFAULT every page that is mapped becomes resident at once: then the two are equal."""
    process = start()
    if "memory is not locked" in line_with(process, "locked"):
        pytest.skip("this user may not lock memory")
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    sizes = {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in status)
        if key in ("VmSize", "VmLck", "VmRSS")
    }
    assert sizes["VmLck"] > 0.9 * sizes["VmSize"]
    assert sizes["VmRSS"] < 0.95 * sizes["VmLck"], sizes


def test_a_second_guard_is_refused_and_names_the_first(start: Starter) -> None:
    first = start()
    line_with(first, "guard.started")
    assert f"another ollama-guard (PID {first.pid}) already guards" in refused(start(), 1)
    assert first.poll() is None


def test_a_guard_killed_with_9_leaves_no_lock_even_while_its_children_live(start: Starter) -> None:
    first = start()
    line_with(first, "events are logged")
    os.kill(first.pid, signal.SIGSTOP)
    family = [int(pid) for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    first.kill()
    first.wait()
    second = start()
    line_with(second, "guard.started")
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("policy", [b"", b"{", b"[]", b'{"surprise": 1}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_policy_is_refused_with_78(start: Starter, policy: bytes) -> None:
    assert "the policy on descriptor" in refused(start(policy), 78)


def test_a_runtime_directory_that_is_not_there_is_refused(start: Starter) -> None:
    assert "No such file" in refused(start(runtime_dir=start.folder / "missing"), 1)


def test_a_log_that_nobody_reads_does_not_keep_it_from_ending_in_time(start: Starter) -> None:
    process = start()
    line_with(process, "events are logged")
    for _ in range(300):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
    started = time.monotonic()
    process.terminate()
    assert process.wait(3) == 0
    assert time.monotonic() - started < TERM_SECONDS


@pytest.fixture
def nobodys_server() -> Iterator[subprocess.Popen[bytes]]:
    """A shell that is called as an Ollama server is, of another user than ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy("/bin/sh", folder / "ollama")
        (folder / "serve").write_text("read line\n")
        argv = [str(folder / "ollama"), "serve"]
        with subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE, user=65534, group=65534) as process:
            yield process
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's server")
def test_a_server_that_a_user_namespace_keeps_from_us_is_told_when_it_is_found(
    start: Starter, nobodys_server: subprocess.Popen[bytes]
) -> None:
    """There CAP_KILL is had, and yet it counts for nobody outside: as with AppArmor's in a container."""
    within = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*within, "true"], check=False).returncode != 0:
        pytest.skip("no user namespace can be made here")
    process = start(within=within)
    line_with(process, "(CAP_KILL)")
    refusal = line_with(
        process, f"process {nobodys_server.pid}, a server of Ollama, can't be killed from here"
    )
    assert "user namespace" in refusal
