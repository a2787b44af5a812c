"""What a real guard records about a fake Ollama, replayed: the same decisions, exactly."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.handling import NOBODY_S, TERM_SECONDS, hup, term, wait_look
from beds.hands import UnixConnection
from beds.hog import Hog
from beds.yard import GIB, MIB


@pytest.fixture
def yard() -> Iterator[tuple[MemoryCgroup, FakeServer]]:
    """A cgroup of 1 GiB with a fake Ollama in it."""
    try:
        with MemoryCgroup(1 * GIB, "replay") as cgroup, FakeServer(cgroup.join_paths) as server:
            yield cgroup, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def records(folder: Path) -> list[dict[str, Any]]:
    """Every line of every trace, oldest first."""
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def replayed(guard: Guard, *arguments: str) -> dict[str, Any]:
    """What `replay --json` says of all that this guard recorded."""
    done = guard.cli("replay", "--json", str(guard.state / "traces"), *arguments, timeout=120)
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_story_with_a_reload_and_a_rescue_replays_the_same(
    yard: tuple[MemoryCgroup, FakeServer], tmp_path: Path
) -> None:
    """Loads, a pause by hand, a new policy, a hog, an unload with its outcome; then with another policy."""
    cgroup, server = yard
    with Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path) as guard:
        guard.wait_guarding(server.pid)
        server.load("mid")
        wait_look(guard, lambda told: "idle" in [m["state"] for m in told["models"]], "mid is idle")
        assert guard.cli("pause", "30min").returncode == 0
        assert guard.cli("resume").returncode == 0
        guard.config.write_text(guard.config.read_text() + "[cap]\nsoft_max = 3\n")
        hup(guard)
        guard.wait_event("config.reloaded", 10)
        with Hog(cgroup.popen) as hog:
            hog.grow(600 * MIB, 400 * MIB)
            guard.wait_event("model.unloaded", 10, names="mid:latest")
            assert hog.wait(10)
        wait_look(guard, lambda told: told["last_decision"]["outcome"] == "done", "its outcome is known")
        assert term(guard) < TERM_SECONDS, guard.tail()
        told = replayed(guard)
        assert told["identical"], told
        assert told["decisions"] > 20
        assert (told["gaps"], told["notes"]) == (0, [])
        seen = records(guard.state / "traces")
        assert [record["policy"]["cap"]["soft_max"] for record in seen if "policy" in record] == [None, 3]
        assert [record["outcome"]["kind"] for record in seen if "outcome" in record] == ["done"]
        assert sum("requests" in record and bool(record["requests"]) for record in seen) == 2

        new = tmp_path / "new.toml"
        new.write_text("[policy]\nmode = 'observe'\n")
        other = replayed(guard, "--config", str(new))
        assert other["differing_actions_since"] is not None
        assert any(span["replayed"]["would"] and span["recorded"]["actions"] for span in other["spans"])


NOWHERE = "http://127.0.0.1:9"


def traces(guard: Guard) -> list[Path]:
    """The files so far, oldest first."""
    folder = guard.state / "traces"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_each_start_makes_a_file_of_its_own_and_all_of_them_replay(tmp_path: Path) -> None:
    """Hands are killed, the sentinel is killed, the guard ends in order: nothing is overwritten."""
    with Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path) as guard:
        guard.wait(lambda: len(traces(guard)) == 1, 10, "a first trace")
        os.kill(guard.hands_pid, signal.SIGKILL)
        guard.wait(lambda: len(traces(guard)) == 2, 15, "a second trace")
        guard.kill()
        guard.start()
        guard.wait(lambda: len(traces(guard)) == 3, 15, "a third trace")
        time.sleep(2.5)
        term(guard)
        told = replayed(guard)
        assert told["identical"], told
        assert told["gaps"] == 0
        headers = [record for record in records(guard.state / "traces") if "trace" in record]
        assert [header["why"] for header in headers] == ["start"] * 3
        last = traces(guard)[-1].read_text().splitlines()
        assert len(last) >= 3, "what was gathered is written at the end"


def test_files_are_rotated_and_bounded_while_the_guard_runs(tmp_path: Path) -> None:
    """With files as small as can be; `check-config` would not allow them smaller."""
    config = '[record]\nmax_file = "64KiB"\nmax_total = "1MiB"\n'
    with Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path, config=config) as guard:
        guard.wait(lambda: traces(guard), 10, "a first trace")
        (first,) = traces(guard)
        # Requests are inputs of the brain, so that many of them fill a file.
        deadline = time.monotonic() + 60
        while len(traces(guard)) < 2:
            assert time.monotonic() < deadline, first.stat().st_size
            ask(guard, "unload", "m" * 400)
        term(guard)
        assert first.stat().st_size < 2 * 64 * 1024
        told = replayed(guard)
        assert told["identical"], told
        headers = [record for record in records(guard.state / "traces") if "trace" in record]
        assert [header["why"] for header in headers] == ["start", "file"]


def ask(guard: Guard, verb: str, model: str) -> None:
    """One wish through the control socket; a command takes half a second to start."""
    connection = UnixConnection(guard.runtime / "control.sock")
    try:
        connection.request("POST", f"/{verb}", json.dumps({"model": model}))
        connection.getresponse().read()
    finally:
        connection.close()


def test_recording_can_be_turned_off_and_on_by_a_reload(tmp_path: Path) -> None:
    with Guard(NOWHERE, cgroup=NOBODY_S, home=tmp_path, config="[record]\nenabled = false\n") as guard:
        wait_look(guard, lambda told: told["mode"] == "enforce", "a first status")
        assert traces(guard) == []
        guard.config.write_text(guard.config.read_text().replace("enabled = false", "enabled = true"))
        hup(guard)
        guard.wait(lambda: len(traces(guard)) == 1, 10, "a trace")
        assert replayed(guard)["identical"]
