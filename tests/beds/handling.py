"""What tests of faults do to a running guard, besides what every test does."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beds.guard import AWAY, Guard
from beds.process import alive
from ollama_guard.core.state import Durable
from ollama_guard.sentinel.statemap import StateMap

NOBODY_S = "/ollama-guard-nobody-s"
"""A cgroup that does not exist: a guard that watches it never meddles with other tests' servers."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# A guard ends within a second of TERM: 0.5 s of it are the last chance of hands that are deaf to it. The rest
# is for this process, which has to be woken beside all other tests to see that it has ended.
TERM_SECONDS = 1.3


def hup(guard: Guard) -> None:
    """Ask for a reload."""
    os.kill(guard.pid, signal.SIGHUP)


def term(guard: Guard, seconds: float = 10.0) -> float:
    """End the guard with TERM; the seconds that it took (its exit code is looked at by nobody)."""
    pid = guard.pid
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    while alive(pid):
        assert time.monotonic() - began < seconds, guard.tail()
        time.sleep(0.005)
    return time.monotonic() - began


def warned(guard: Guard, text: str) -> list[str]:
    """The sentences of all warnings that contain ``text``."""
    return [e["message"] for e in guard.events("guard.warned") if text in e["message"]]


def state_of(guard: Guard) -> StateMap:
    """The state file of a guard, for `load` and `store`."""
    return StateMap(guard.runtime / "state", _BOOT_ID.read_text().strip())


def kept(guard: Guard) -> Durable:
    """What the state file holds now."""
    durable, reason = state_of(guard).load()
    assert durable is not None, reason
    return durable


def look(guard: Guard) -> dict[str, Any]:
    """The status now."""
    return guard.status()


def wait_look(
    guard: Guard, check: Callable[[dict[str, Any]], object], what: str, seconds: float = 10.0
) -> None:
    """Wait until the status is such that ``check`` holds."""

    def holds() -> bool:
        with contextlib.suppress(*AWAY):
            return bool(check(look(guard)))
        return False

    guard.wait(holds, seconds, what)
