"""Kernels that tell less, or nonsense: what can't be read is never acted on, and everything else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beds.hands import UnixConnection
from ollama_guard.core.codec import to_plain
from ollama_guard.core.policy import Policy
from unit.sensors.sensor_tree import GIB, MIB, Tree, llama_server

DRIVER = str(Path(__file__).with_name("tree_driver.py"))
# Beyond what this kernel gives away (pid_max is 4,194,304 at most): a kill can only miss.
SERVER, RUNNER = 4_194_310, 4_194_311
ABSURD_KB = (2**64 - 256 * 1024) // 1024
ACTED = {"decision.made", "action.failed", "runner.killed", "model.unloaded"}


class Odd:
    """A guard on a machine that the test lays out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = Tree(folder / "machine")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the guard and wait for its first status."""
        policy = Policy()
        policy = replace(policy, ollama=replace(policy.ollama, url="http://127.0.0.1:9"))
        (self.folder / "policy.json").write_text(json.dumps(to_plain(policy)))
        run = self.folder / "run"
        run.mkdir()
        argv = [
            sys.executable,
            DRIVER,
            str(run),
            str(self.folder / "machine"),
            str(self.folder / "policy.json"),
        ]
        environ = {**os.environ, "OLLAMA_GUARD_LOG": "json", "PYTHONPATH": str(Path(__file__).parents[1])}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, stderr=log, env=environ)
        self.until(lambda told: told["guard"]["pid"], "a first status")

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The log, or the events of these names."""
        found = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return [event for event in found if not names or event["event"] in names]

    def look(self) -> dict[str, Any]:
        """The status."""
        connection = UnixConnection(self.folder / "run" / "status.sock")
        try:
            connection.request("GET", "/status")
            document: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return document

    def until(self, holds: Callable[[dict[str, Any]], Any], what: str, seconds: float = 12.0) -> None:
        """Wait for a status like this, or fail with the log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if holds(self.look()):
                    return
            except (OSError, KeyError, IndexError):
                pass
            time.sleep(0.03)
        raise AssertionError(f"not in time: {what}\n{self.events()[-12:]}")

    def meminfo(self, text: str) -> None:
        """Replace what the kernel says of memory, as a whole; "" takes the file away."""
        path = self.tree.proc / "meminfo"
        if not text:
            path.unlink()
            return
        path.write_text(text)


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Odd]:
    built = Odd(tmp_path)
    yield built
    if built.process is not None:
        built.process.send_signal(signal.SIGTERM)
        assert built.process.wait(10) == 0


def blind(told: dict[str, Any]) -> bool:
    """Whether the status says that the guard is blind."""
    return "Blind" in {held["condition"] for held in told["conditions"]}


NONSENSE = {
    "more available than there is": f"MemTotal: {GIB // 1024} kB\nMemAvailable: {2 * GIB // 1024} kB\n",
    "nothing available is told": f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\n",
    "no file": "",
    "no numbers": "MemTotal: many kB\nMemAvailable: few kB\n",
    "empty": "\n",
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_memory_that_cannot_be_read_is_blind_and_nothing_is_done(odd: Odd, kind: str) -> None:
    """At 1 % available the only runner would die; told nonsense instead, the guard says so and holds."""
    odd.tree.server(SERVER)
    odd.tree.process(RUNNER, "llama-server", llama_server(), parent=SERVER, anon=8 * GIB)
    odd.meminfo(NONSENSE[kind])
    odd.start()
    odd.until(blind, "Blind is told")
    odd.until(lambda told: RUNNER in [model["pid"] for model in told["models"]], "the runner is seen")
    time.sleep(0.5)
    told = odd.look()
    (host,) = told["domains"]
    assert host["available_bytes"] is None
    assert told["unknown"]["domains.host.available_bytes"]
    assert odd.events("condition.changed")
    assert not odd.events(*ACTED)
    if kind == "no numbers":  # and with the same machine readable again, it acts
        odd.tree.meminfo(16 * GIB, 160 * MIB)
        odd.until(lambda _: odd.events(*ACTED), "it acts")


def test_absurd_swap_no_pressure_file_and_no_cgroups_leave_the_guard_its_sight(odd: Odd) -> None:
    """What is missing is said once at the start, and at critical it acts on what is left."""
    (odd.tree.proc / "pressure" / "memory").unlink()
    (odd.tree.proc / "vmstat").unlink()
    (odd.tree.proc / "self" / "mountinfo").unlink()
    odd.tree.cgroup.rmdir()
    swap = f"SwapTotal: {GIB // 1024} kB\nSwapFree: {ABSURD_KB} kB\n"
    odd.meminfo(f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\n{swap}")
    odd.tree.server(SERVER)
    odd.tree.process(RUNNER, "llama-server", llama_server(), parent=SERVER, anon=8 * GIB)
    odd.start()
    odd.until(lambda told: RUNNER in [model["pid"] for model in told["models"]], "the runner is seen")
    told = odd.look()
    assert told["level"] == "ok"
    assert not blind(told)
    (host,) = told["domains"]
    assert host["available_bytes"] == 8 * GIB
    assert host["psi_some_avg10"] is None
    cannot = {event["subject"] for event in odd.events("guard.tested") if event["may"] is False}
    assert {"psi", "trigger", "cgroup"} <= cannot
    assert not odd.events(*ACTED)
    odd.meminfo(f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {160 * 1024} kB\n{swap}")
    odd.until(lambda now: now["level"] == "critical", "critical")
    odd.until(lambda _: odd.events(*ACTED), "it acts")
