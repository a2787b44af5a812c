"""Signals at bad moments: reloads of every kind, a log that nobody reads, TERM whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.disks import hanging_disk
from beds.guard import PROGRAM, Guard
from beds.handling import NOBODY_S, TERM_SECONDS, hup, look, term, wait_look, warned

NOWHERE = "http://127.0.0.1:9"
GOOD = f'[ollama]\nurl = "{NOWHERE}"\ncgroup = "{NOBODY_S}"\n'


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    """A running guard."""
    with Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path) as started:
        wait_look(started, lambda told: told["mode"] == "enforce", "a first status")
        yield started


def test_hup_takes_every_good_file_and_no_bad_one(guard: Guard) -> None:
    """What check-config refuses with 78, HUP refuses with the same sentences, and the old policy stays."""
    guard.config.write_text(GOOD + "[cap]\nsoft_max = 3\n")
    hup(guard)
    wait_look(guard, lambda told: told["ollama"]["cap"]["soft"] == 3, "the new cap")
    kept = (guard.state / "last-good.toml").read_text()
    bad = {
        "unknown key": GOOD + "[cap]\nsoft_maxx = 1\n",
        "broken": GOOD + "[cap\n",
        "a directory": None,
        "missing": None,
        "unreadable": None,
        "no text": b"\xff\xfe[\0c\0",
        "a pipe that nobody writes": None,
    }
    for count, (kind, content) in enumerate(bad.items(), 1):
        _put(guard.config, kind, content)
        checked = guard.cli("check-config", str(guard.config))
        assert checked.returncode == 78, kind
        hup(guard)
        guard.wait(
            lambda: len(guard.events("config.rejected")) == count,  # noqa: B023 - used at once
            10,
            f"{kind} is refused",
        )
        told = guard.events("config.rejected")[-1]["message"]
        for sentence in checked.stderr.splitlines():
            assert sentence.removeprefix("ollama-guard: ") in told, kind
    assert look(guard)["ollama"]["cap"]["soft"] == 3
    assert (guard.state / "last-good.toml").read_text() == kept
    _put(guard.config, "good", GOOD)
    hup(guard)
    wait_look(guard, lambda told: told["ollama"]["cap"]["soft"] is None, "the good file")


def _put(path: Path, kind: str, content: str | bytes | None) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == "a directory":
        path.mkdir()
    elif kind.startswith("a pipe"):
        os.mkfifo(path)
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem")  # root may open it, and every read of its start is an I/O error
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_twenty_hups_in_a_row_end_with_the_newest_file(guard: Guard) -> None:
    """They are taken together: a handful of reloads, the last one after the last signal."""
    for number in range(1, 21):
        guard.config.write_text(f"{GOOD}[cap]\nsoft_max = {number}\n")
        hup(guard)
        time.sleep(0.01)
    wait_look(guard, lambda told: told["ollama"]["cap"]["soft"] == 20, "the last file")
    time.sleep(0.5)
    assert 1 <= len(guard.events("config.reloaded")) <= 5
    assert not guard.events("config.rejected")
    assert look(guard)["ollama"]["cap"]["soft"] == 20


def test_signals_of_every_kind_at_once_lose_no_reload_and_no_term(guard: Guard) -> None:
    for _ in range(50):
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH):
            os.kill(guard.pid, number)
    guard.wait_event("guard.reported", 5)
    guard.wait_event("config.reloaded", 10)
    os.kill(guard.pid, signal.SIGHUP)
    assert term(guard) < TERM_SECONDS
    assert "SIGTERM received" in guard.events("guard.stopping")[-1]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_configuration_on_a_disk_that_hangs_is_given_up(guard: Guard, tmp_path: Path) -> None:
    """A reload that hangs holds up neither the tick nor TERM; a start runs on the last good file."""
    guard.config.unlink()
    try:
        with hanging_disk(tmp_path / "etc") as disk:
            guard.config.symlink_to(disk / "guard.toml")
            hup(guard)
            before = look(guard)["guard"]["cpu_seconds"]
            # A guard at rest ticks every 3 s, and the reload is given up after 5.
            wait_look(guard, lambda told: told["guard"]["cpu_seconds"] > before, "the tick goes on", 4.5)
            assert term(guard) < TERM_SECONDS
            guard.stop()
            began = time.monotonic()
            guard.start()
            assert time.monotonic() - began < 20.0
            (sentence,) = warned(guard, "the last good one is in force")
            assert "could not be read within 5 s" in sentence
    except BedUnavailable as problem:
        pytest.skip(str(problem))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_start_that_can_read_no_configuration_in_time_is_no_bad_configuration(tmp_path: Path) -> None:
    """What ends with 78 stays down, and a disk that is slow at boot may be there a moment later."""
    guard = Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path)
    try:
        with hanging_disk(tmp_path / "etc") as disk:
            argv = [str(PROGRAM), "run", "--config", str(disk / "guard.toml")]
            ended = subprocess.run(
                argv, env=guard._env, capture_output=True, text=True, timeout=60, check=False
            )
    except BedUnavailable as problem:
        pytest.skip(str(problem))
    assert "could not be read within 5 s" in ended.stderr
    assert "there is no last good configuration" in ended.stderr
    assert ended.returncode == 1


def test_a_log_whose_reader_went_away_stops_nothing(tmp_path: Path) -> None:
    """Journal pipe closed: the guard and its hands go on, and are as quick to end."""
    guard = Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path)
    argv = [str(PROGRAM), "run", "--config", str(guard.config)]
    process = subprocess.Popen(argv, env=guard._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        assert b"guard.started" in process.stdout.readline()
        process.stdout.close()
        wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
        for _ in range(20):
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.01)
        assert guard.cli("pause", "1m").returncode == 0
        wait_look(guard, lambda told: told["mode"] == "paused", "paused")
        assert look(guard)["guard"]["pid"] == process.pid
    finally:
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - began < TERM_SECONDS


def test_term_ends_it_in_time_while_every_tick_fails(tmp_path: Path) -> None:
    """Senses that raise at every look, and hands that are deaf to TERM."""
    driver = Path(__file__).with_name("guard_driver.py")
    argv = [sys.executable, str(driver), str(tmp_path), str(tmp_path / "no-such-world"), "deaf"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stderr=log, env={**os.environ, "OLLAMA_GUARD_LOG": "json"})
    time.sleep(2.0)
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - began < TERM_SECONDS
    lines = (tmp_path / "log").read_text().splitlines()
    failed = [line for line in lines if "a tick failed" in line]
    assert 1 <= len(failed) <= 8, lines
