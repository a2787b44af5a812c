"""`top` on a real terminal and into pipes, over a real guard of nobody's servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.guard import PROGRAM, Guard
from beds.handling import NOBODY_S
from beds.terminal import OnTerminal


@pytest.fixture
def guard(free_port: int, tmp_path: Path) -> Iterator[Guard]:
    """A running guard of nobody."""
    with Guard(f"http://127.0.0.1:{free_port}", cgroup=NOBODY_S, home=tmp_path) as guard:
        guard.wait((guard.state / "public" / "status.json").exists, 15, "hands have a status")
        yield guard


def top(guard: Guard, columns: int = 80, rows: int = 24) -> OnTerminal:
    return OnTerminal([str(PROGRAM), "top"], guard._env, columns, rows)


@pytest.mark.parametrize("keys", ["q", "\x03"])
def test_it_draws_on_the_other_screen_and_gives_the_terminal_back(guard: Guard, keys: str) -> None:
    with top(guard) as shown:
        end = shown.wait_text("\x1b[?1049h")
        for part in ("ollama-guard", "host", "left", "soft", "no model is loaded"):
            shown.wait_text(part, after=end)
        shown.press(keys)
        assert shown.wait() == 0
        tail = shown.text[shown.text.index("\x1b[?1049l") :]
        assert "Traceback" not in shown.text
        assert "\x1b[?25h" in shown.text, "the cursor is there again"
        assert "Aborted" not in tail
        assert shown.modes == shown.modes_before


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (20, 24), (20, 5), (8, 2), (200, 60)])
def test_no_line_is_wider_than_the_terminal_and_no_frame_higher(
    guard: Guard, columns: int, rows: int
) -> None:
    with top(guard, columns, rows) as shown:
        end = shown.wait_text("\x1b[?1049h")
        shown.wait_text("\x1b[H", after=shown.wait_text("\x1b[H", after=end))
        shown.press("q")
        assert shown.wait() == 0
        frames = shown.text[end : shown.text.index("\x1b[?1049l")].split("\x1b[H")[1:]
    for frame in frames:
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).replace("\r", "").split("\n")
        assert len(lines) <= rows
        assert max(map(len, lines)) <= columns


def test_a_resize_redraws_at_once_without_asking_again(guard: Guard) -> None:
    with top(guard, 60, 24) as shown:
        end = shown.wait_text("soft", after=shown.wait_text("\x1b[?1049h"))
        shown.resize(20, 10)
        time.sleep(0.3)
        shown.press("q")
        assert shown.wait() == 0
        last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.text[end:].split("\x1b[H")[-1])
        assert max(map(len, last.replace("\r", "").split("\n"))) <= 20


def test_a_guard_that_goes_away_is_told_of_and_waited_for(guard: Guard) -> None:
    with top(guard) as shown:
        end = shown.wait_text("no model is loaded")
        guard.stop()
        end = shown.wait_text("no guard is running", after=end)
        guard.start()
        shown.wait_text("no model is loaded", after=end)
        shown.press("q")
        assert shown.wait() == 0


def test_into_a_pipe_it_is_plain_text_once_a_second_until_nobody_reads(guard: Guard) -> None:
    process = subprocess.Popen(
        [str(PROGRAM), "status", "--watch"], env=guard._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    began, seen = time.monotonic(), []
    while sum(line.startswith("level ") for line in seen) < 3:
        seen.append(process.stdout.readline())
    assert 1.5 < time.monotonic() - began < 10
    assert "\x1b" not in "".join(seen)
    process.stdout.close()
    assert process.wait(5) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_json_is_a_line_a_second(guard: Guard) -> None:
    process = subprocess.Popen(
        [str(PROGRAM), "top", "--json"], env=guard._env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    documents = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    process.stdout.close()
    assert all(document["level"] for document in documents)
    assert documents[0]["domains"][0]["thresholds"].keys() == {"soft", "hard", "critical"}


@pytest.mark.parametrize("command", ["status", "status --json", "models", "once", "--help", "status --help"])
def test_a_pipe_closed_early_ends_it_quietly(guard: Guard, command: str) -> None:
    line = f"{PROGRAM} {command} --config {guard.config} | head -1" if "help" not in command else ""
    line = line or f"{PROGRAM} {command} | head -1"
    result = subprocess.run(
        ["/bin/bash", "-c", line], env=guard._env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout.count("\n")) == (0, 1)
    assert result.stderr == ""


def test_without_rights_on_the_socket_it_says_which_group_to_join(guard: Guard) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket away")
    os.chown(guard.runtime / "status.sock", 65534, 65534)
    (guard.runtime / "status.sock").chmod(0o600)
    # PR_CAPBSET_DROP (24) of CAP_DAC_OVERRIDE (1): behind the exec even root is bound by file modes.
    drop, program = "ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)", str(PROGRAM)
    bound = f"import ctypes, os; {drop}; os.execv({program!r}, ['x', 'top'])"
    result = subprocess.run(
        [PROGRAM.with_name("python"), "-c", bound], env=guard._env, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert result.returncode == 69
    assert "usermod -aG ollama-guard " in result.stderr
    assert "Traceback" not in result.stderr
