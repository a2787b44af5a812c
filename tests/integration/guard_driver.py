"""The sentinel as a program whose senses are a file: everything but the sensors is the real thing.

Arguments: runtime directory, world file (a Snapshot as JSON), role of the scripted hands, then the
compiler's command line for HUP. A missing world file is an exception in the tick.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard.core.codec import from_plain
from ollama_guard.core.model import RunnerReading, ServerReading, Snapshot
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel import lock
from ollama_guard.sentinel.journal import open_journal
from ollama_guard.sentinel.loop import Loop
from ollama_guard.sentinel.outfit import Outfit, Setup
from ollama_guard.sentinel.sensors import Fact

HANDS = str(Path(__file__).with_name("scripted_hands.py"))


class FileSenses:
    """Readings from a JSON file; the recheck before a signal is real."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def births(self, now: float, *, recovering: bool) -> bool:
        """No births."""
        del now, recovering
        return False

    def glance(self, now: float) -> Glance:
        """What the file says of memory."""
        del now
        return Glance.of(from_plain(Snapshot, json.loads(self._path.read_text())))

    def sense(self, now: float, wall: float, *rest: Any) -> Snapshot:
        """What the file says."""
        _, catalogue, requests, alive, reason = rest
        world = from_plain(Snapshot, json.loads(self._path.read_text()))
        api = replace(world.api, probed_at=now, answered_at=now, loaded_at=now)
        there = tuple(r for r in world.runners if not self.still_the_same(r.pid, r))
        return replace(
            world, now=now, wall=wall, api=api, runners=there, catalogue=catalogue, requests=requests,
            hands_alive=alive, hands_reason=reason,
        )  # fmt: skip

    def fds(self) -> dict[int, int]:
        """None."""
        return {}

    def on_ready(self, fd: int, events: int) -> None:
        """Never called, as there are none."""
        raise AssertionError((fd, events))

    def still_the_same(self, pid: int, expected: RunnerReading) -> str:
        """The real start time."""
        return self._same(pid, expected.start_ticks)

    def _same(self, pid: int, start_ticks: int) -> str:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return "it is gone"
        same = stat[0] != "Z" and int(stat[19]) == start_ticks
        return "" if same else "another process"

    def still_the_server(self, pid: int, expected: ServerReading) -> str:
        """The real start time."""
        return self._same(pid, expected.start_ticks)

    def capabilities(self) -> tuple[Fact, ...]:
        """One."""
        return (Fact("memory", ok=True, sentence="memory is read from a file"),)

    def reconfigure(self, policy: Policy) -> None:
        """Nothing to follow."""
        del policy

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    runtime_dir, world, role, *compile_argv = sys.argv[1:]
    lock.take(Path(runtime_dir) / "lock")
    setup = Setup(
        policy=Policy(transition_seconds=1.0),  # the default minute is too long for a test
        config="/etc/guard.toml",
        runtime_dir=Path(runtime_dir),
        state_dir="/nonexistent",
        hands_argv=(sys.executable, HANDS, role),
        compile_argv=tuple(compile_argv) or ("/bin/false",),
    )
    outfit = Outfit(setup, open_journal(os.environ), lambda _: FileSenses(Path(world)))
    try:
        Loop(outfit).run()
    finally:
        outfit.close()


if __name__ == "__main__":
    main()
