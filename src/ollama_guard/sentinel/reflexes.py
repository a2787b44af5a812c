"""The kill rung, and the watch over every victim until its memory is really back.

A kill is: pidfd_open, then recheck that the PID is still the same runner, then signal the pidfd, then
hand it to the reaper. From pidfd_open on, PID reuse can't make us hit somebody else. Unloads are carried
out by `hands`, but only the death of the runner's own pidfd makes them done.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, RunnerReading
from ollama_guard.sentinel.poller import IN, Poller
from ollama_guard.sentinel.reaper import Reaper

Recheck = Callable[[int, RunnerReading], str]

_FREEABLE_KEYS = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


@dataclass(slots=True)
class _Watched:
    """One action in flight; ``pidfd`` is None where only the word of `hands` can end it."""

    action: Action
    since_at: float
    pidfd: int | None = None
    before_bytes: int = 0
    accepted: bool = False
    overtaken: str = ""
    exited: bool = False


class Reflexes:
    """Actions in flight, from the act to their outcome."""

    def __init__(self, poller: Poller, reaper: Reaper, recheck: Recheck, proc: str = "/proc") -> None:
        self._poller = poller
        self._reaper = reaper
        self._recheck = recheck
        self._proc = Path(proc)
        self._watched: dict[int, _Watched] = {}

    def kill(self, action: Action, runner: RunnerReading | None, now: float) -> Outcome | None:
        """Kill the runner that ``action`` names; returns an Outcome only if nothing is left to wait for."""
        watched = self._open(action, runner, now)
        if isinstance(watched, Outcome):
            return watched
        assert watched.pidfd is not None
        try:
            signal.pidfd_send_signal(watched.pidfd, signal.SIGKILL)
        except OSError as error:
            os.close(watched.pidfd)
            if error.errno == errno.ESRCH:
                return _outcome(action, OutcomeKind.SKIPPED, now, "it had exited before the signal")
            return _outcome(action, OutcomeKind.FAILED, now, f"the signal was refused: {error.strerror}")
        self._reaper.release(action.pid or 0, watched.pidfd)
        for other in self._watched.values():
            if other.action.key == action.key:
                other.overtaken = "the runner was killed meanwhile"
        self._begin(watched)
        return None

    def watch(self, action: Action, runner: RunnerReading | None, now: float) -> Outcome | None:
        """Follow an action that `hands` carry out; an Outcome says that it must not be posted at all."""
        if action.pid is None:
            self._watched[action.id] = _Watched(action, now)
            return None
        watched = self._open(action, runner, now)
        if isinstance(watched, Outcome):
            return watched
        self._begin(watched)
        return None

    def reported(self, outcome: Outcome) -> Outcome | None:
        """Weigh the word of `hands`: "done" about a living runner means "accepted", and is waited for."""
        watched = self._watched.get(outcome.action_id)
        if watched is None or watched.action.kind is ActionKind.KILL:
            return None
        if outcome.kind is OutcomeKind.DONE and watched.pidfd is not None:
            watched.accepted = True
            return None
        self._end(watched)
        return outcome

    def collect(self, now: float) -> list[Outcome]:
        """Outcomes of everything that has exited or run past its deadline."""
        ended = [w for w in self._watched.values() if w.exited or now >= w.action.deadline_at]
        return [self._judge(watched, now) for watched in ended]

    def abandon(self, reason: str, now: float) -> list[Outcome]:
        """Fail everything that `hands` had in their care, because they are gone."""
        theirs = [w for w in self._watched.values() if w.action.kind is not ActionKind.KILL]
        for watched in theirs:
            self._end(watched)
        return [_outcome(w.action, OutcomeKind.FAILED, now, reason) for w in theirs]

    def next_deadline_at(self) -> float | None:
        """When the next action in flight runs out of time."""
        return min((w.action.deadline_at for w in self._watched.values()), default=None)

    def close(self) -> None:
        """Let go of every pidfd."""
        for watched in list(self._watched.values()):
            self._end(watched)

    def _open(self, action: Action, runner: RunnerReading | None, now: float) -> _Watched | Outcome:
        """A pidfd that provably is the runner meant, or why not."""
        if action.pid is None or runner is None or runner.key != action.key:
            return _outcome(action, OutcomeKind.SKIPPED, now, "the runner is no longer there")
        try:
            pidfd = os.pidfd_open(action.pid)
        except ProcessLookupError:
            return _outcome(action, OutcomeKind.SKIPPED, now, "freed by itself before we acted")
        except OSError as error:
            return _outcome(action, OutcomeKind.FAILED, now, f"pidfd_open: {error.strerror}")
        problem = "it has just exited" if _readable(pidfd) else self._recheck(action.pid, runner)
        if problem:
            os.close(pidfd)
            return _outcome(action, OutcomeKind.SKIPPED, now, f"not touched: {problem}")
        before = self._freeable_bytes(action.pid)
        return _Watched(action, now, pidfd, runner.freeable_bytes if before is None else before)

    def _begin(self, watched: _Watched) -> None:
        assert watched.pidfd is not None

        def on_exit(events: int) -> None:
            del events
            watched.exited = True
            if watched.pidfd is not None:
                self._poller.remove(watched.pidfd)

        self._watched[watched.action.id] = watched
        self._poller.add(watched.pidfd, on_exit, IN)

    def _judge(self, watched: _Watched, now: float) -> Outcome:
        action = watched.action
        exited = watched.exited or (watched.pidfd is not None and _readable(watched.pidfd))
        left = 0 if exited else self._freeable_bytes(action.pid or 0)
        freed = 0 if left is None or watched.pidfd is None else max(0, watched.before_bytes - left)
        self._end(watched)
        if watched.overtaken:
            return _outcome(action, OutcomeKind.SKIPPED, now, watched.overtaken)
        took = f"{now - watched.since_at:.2f} s"
        if exited:
            ended = _outcome(action, OutcomeKind.DONE, now, f"gone after {took}")
        elif action.kind is ActionKind.KILL:
            ended = _outcome(action, OutcomeKind.FAILED, now, f"still there {took} after SIGKILL")
        elif watched.accepted:
            ended = _outcome(action, OutcomeKind.FAILED, now, f"accepted but not honoured in {took}")
        else:
            ended = _outcome(action, OutcomeKind.FAILED, now, f"no answer from hands in {took}")
        return replace(ended, freed_bytes=freed)

    def _end(self, watched: _Watched) -> None:
        self._watched.pop(watched.action.id, None)
        if watched.pidfd is not None:
            self._poller.remove(watched.pidfd)
            os.close(watched.pidfd)

    def _freeable_bytes(self, pid: int) -> int | None:
        """RssAnon + RssShmem + VmSwap of a process; 0 for a zombie, None if it can't be read."""
        try:
            text = (self._proc / str(pid) / "status").read_bytes()
        except OSError:
            return None
        return _sum_kib(line for line in text.splitlines() if line.startswith(_FREEABLE_KEYS)) * 1024


def _sum_kib(lines: Iterable[bytes]) -> int:
    words = (line.split() for line in lines)
    return sum(int(word[1]) for word in words if len(word) > 1 and word[1].isdigit())


def _readable(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _outcome(action: Action, kind: OutcomeKind, now: float, detail: str) -> Outcome:
    return Outcome(action.id, kind, now, detail=detail)
