"""Whether each server and runner could be killed, found out when it is proven: by signal 0 to its pidfd.

CAP_KILL alone does not tell: a profile of AppArmor (Docker's own lets a container signal its like alone) or
SELinux, or a user namespace, refuses all the same. Signal 0 passes the checks of SIGKILL and does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

from ollama_guard.core.events import Event
from ollama_guard.core.model import RunnerReading, ServerReading, Snapshot
from ollama_guard.sentinel.selftest import CAP_KILL, has_capability, say

Key = tuple[int, int]


class Trials:
    """Remembers who was tried, by (pid, start_ticks); a refusal is told once per server."""

    def __init__(
        self,
        recheck: Callable[[int, RunnerReading], str],
        recheck_server: Callable[[int, ServerReading], str],
    ) -> None:
        self._recheck = recheck
        self._recheck_server = recheck_server
        self._tried: frozenset[Key] = frozenset()
        self._told: frozenset[int | None] = frozenset()

    def follow(self, snapshot: Snapshot) -> list[Event]:
        """Try those that are new, and say of whom a kill would be refused."""
        here = frozenset(key for key, *_ in _all(snapshot))
        if here == self._tried:
            return []
        self._told &= {server for _, server, _ in _all(snapshot)}
        events = []
        for key, server, reading in _all(snapshot):
            problem = "" if key in self._tried else self._try(key[0], reading)
            if problem and server not in self._told:
                self._told |= {server}
                events.append(say("kill", may=False, sentence=_sentence(reading, problem)))
        self._tried = here
        return events

    def _try(self, pid: int, reading: RunnerReading | ServerReading) -> str:
        """Why a kill would be refused; "" if it would not, or if the process is another one by now."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return ""
        try:
            if isinstance(reading, RunnerReading):
                another = self._recheck(pid, reading)
            else:
                another = self._recheck_server(pid, reading)
            if not another:
                signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return ""
        except OSError as problem:
            return problem.strerror or str(problem)
        finally:
            os.close(pidfd)
        return ""


def _all(snapshot: Snapshot) -> Iterator[tuple[Key, int | None, RunnerReading | ServerReading]]:
    """Everybody who is proven: its key, the PID of its server, and its reading."""
    for server in snapshot.servers:
        yield (server.pid, server.start_ticks), server.pid, server
    for runner in snapshot.runners:
        if runner.proven:
            yield runner.key, runner.server_pid, runner


def _sentence(reading: RunnerReading | ServerReading, problem: str) -> str:
    what = "a runner" if isinstance(reading, RunnerReading) else "a server"
    why = (
        "AppArmor, SELinux or a user namespace forbids it (in a container try `apparmor:unconfined`)"
        if has_capability(CAP_KILL)
        else "there is no CAP_KILL"
    )
    return f"process {reading.pid}, {what} of Ollama, can't be killed from here ({problem}): {why}"
