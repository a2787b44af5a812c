"""How much memory the show may take on this machine."""

from __future__ import annotations

import time
from contextlib import ExitStack

from ollama_guard.core.policy import MIB
from ollama_guard.core.units import bytes_text
from ollama_guard.errors import GuardError
from ollama_guard.sentinel.sensors.domains import Domains
from ollama_guard.sentinel.sensors.files import slurp
from ollama_guard.sentinel.sensors.host import Host
from ollama_guard.sentinel.sensors.watches import Watches

# What the show plays with at most and at least (bytes). Below the least the interpreters of the fake's
# processes (about 60 MiB) would be the larger part of the play.
MOST_BYTES = 1024 * MIB
LEAST_BYTES = 256 * MIB
# Left alone on top of the budget (bytes): the guard and the show themselves take 150 MiB, the rest is
# the machine's, so that nothing outside of the show ever feels it.
LEFT_ALONE_BYTES = 400 * MIB


def choose(available_bytes: int) -> int:
    """The budget in bytes for a machine with so much available.

    Raises:
        GuardError: there is too little for any show.
    """
    room = available_bytes - LEFT_ALONE_BYTES
    if room < LEAST_BYTES:
        raise GuardError(
            f"this machine has {bytes_text(available_bytes)} of memory available; the demo needs "
            f"{bytes_text(LEAST_BYTES + LEFT_ALONE_BYTES)}: {bytes_text(LEAST_BYTES)} to play with, and "
            f"{bytes_text(LEFT_ALONE_BYTES)} that it leaves alone"
        )
    return min(MOST_BYTES, room // MIB * MIB)


def available_bytes() -> int:
    """What is really available here: the machine's, or what a memory limit above this process leaves of it.

    Raises:
        GuardError: it can't be read.
    """
    with ExitStack() as stack:
        host, watches = Host("/proc"), Watches()
        stack.callback(host.close)
        stack.callback(watches.close)
        domains = Domains("/proc", "/sys/fs/cgroup", watches)
        stack.callback(domains.close)
        machine = host.read()
        limits, _ = domains.read([slurp("/proc/self/cgroup") or b""], machine, time.monotonic())
        readings = (machine, *limits)
    unread = next((reading.reason for reading in readings if reading.available_bytes is None), "")
    if unread:
        raise GuardError(f"how much memory is available can't be told, so the demo leaves it alone: {unread}")
    return min(reading.available_bytes or 0 for reading in readings)
