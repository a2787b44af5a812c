"""The kill rung, and the watch over every victim until its memory is really back.

A kill is: pidfd_open, then recheck that the PID is still the same runner (or server), then signal the pidfd,
then hand it to the reaper. From pidfd_open on, PID reuse can't make us hit somebody else. A server takes its
runners with it, since they would outlive it (facts 2.7). Unloads are carried out by `hands`, but only the
death of the runner's own pidfd makes them done.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ollama_guard.core.model import (
    Action,
    ActionKind,
    Outcome,
    OutcomeKind,
    RunnerReading,
    ServerReading,
)
from ollama_guard.core.outcomes import STILL_THERE
from ollama_guard.core.units import count_text
from ollama_guard.sentinel import victim as victims
from ollama_guard.sentinel.poller import IN, Poller
from ollama_guard.sentinel.reaper import Reaper
from ollama_guard.sentinel.victim import Victim

Recheck = Callable[[int, RunnerReading], str]
RecheckServer = Callable[[int, ServerReading], str]

# What the sentinel does itself; all else is in the care of `hands`.
OURS = frozenset({ActionKind.KILL, ActionKind.KILL_SERVER})
# What is about one runner, whose end makes it done.
_ON_RUNNERS = frozenset({ActionKind.UNLOAD, ActionKind.PURGE_GHOST, ActionKind.KILL})


def _unknown(pid: int, _: ServerReading) -> str:
    return f"nobody here can tell whether process {pid} is a server"


@dataclass(slots=True)
class _Watched:
    """One action in flight; without ``victim`` only the word of `hands` can end it."""

    action: Action
    since_at: float
    victim: Victim | None = None
    train: tuple[Victim, ...] = ()
    accepted: bool = False
    overtaken: str = ""

    @property
    def victims(self) -> tuple[Victim, ...]:
        """Everybody whose end is waited for."""
        return () if self.victim is None else (self.victim, *self.train)

    @property
    def over(self) -> bool:
        """Whether all of them were told to have ended."""
        return self.victim is not None and all(victim.exited for victim in self.victims)


class Reflexes:
    """Actions in flight, from the act to their outcome."""

    def __init__(
        self,
        poller: Poller,
        reaper: Reaper,
        recheck: Recheck,
        recheck_server: RecheckServer = _unknown,
        proc: str = "/proc",
    ) -> None:
        self._poller = poller
        self._reaper = reaper
        self._recheck = recheck
        self._recheck_server = recheck_server
        self._proc = Path(proc)
        self._watched: dict[int, _Watched] = {}

    def kill(self, action: Action, runner: RunnerReading | None, now: float) -> Outcome | None:
        """Kill the runner that ``action`` names; returns an Outcome only if nothing is left to wait for."""
        victim = self._runner(action, runner, now)
        return victim if isinstance(victim, Outcome) else self._shoot(_Watched(action, now, victim))

    def kill_server(
        self, action: Action, server: ServerReading | None, runners: Sequence[RunnerReading], now: float
    ) -> Outcome | None:
        """Kill the server that ``action`` names, and those of ``runners`` that are its proven children now.

        The server goes first, so that it starts no other; a child that is not the same any more is let be.
        """
        if server is None or (server.pid, server.start_ticks) != action.key:
            return _outcome(action, OutcomeKind.SKIPPED, now, "the server is no longer there")
        victim = self._open(action, server.pid, lambda pid: self._recheck_server(pid, server), now)
        if isinstance(victim, Outcome):
            return victim
        train = (self._child(action, runner, now) for runner in runners if runner.server_pid == server.pid)
        return self._shoot(_Watched(action, now, victim, tuple(child for child in train if child)))

    def watch(self, action: Action, runner: RunnerReading | None, now: float) -> Outcome | None:
        """Follow an action that `hands` carry out; an Outcome says that it must not be posted at all."""
        watched = _Watched(action, now)
        if action.pid is not None and action.kind in _ON_RUNNERS:
            victim = self._runner(action, runner, now)
            if isinstance(victim, Outcome):
                return victim
            watched.victim = victim
        self._begin(watched)
        return None

    def reported(self, outcome: Outcome) -> Outcome | None:
        """Weigh the word of `hands`: "done" about a living runner means "accepted", and is waited for."""
        watched = self._watched.get(outcome.action_id)
        if watched is None or watched.action.kind in OURS:
            return None
        if outcome.kind is OutcomeKind.DONE and watched.victim is not None:
            watched.accepted = True
            return None
        self._end(watched)
        return outcome

    def collect(self, now: float) -> list[Outcome]:
        """Outcomes of everything that has exited or run past its deadline."""
        ended = [w for w in self._watched.values() if w.over or now >= w.action.deadline_at]
        return [self._judge(watched, now) for watched in ended]

    def abandon(self, reason: str, now: float) -> list[Outcome]:
        """Fail everything that `hands` had in their care, because they are gone."""
        theirs = [w for w in self._watched.values() if w.action.kind not in OURS]
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

    def _runner(self, action: Action, runner: RunnerReading | None, now: float) -> Victim | Outcome:
        """The runner meant, held by its pidfd, or why not."""
        if action.pid is None or runner is None or runner.key != action.key:
            return _outcome(action, OutcomeKind.SKIPPED, now, "the runner is no longer there")
        unread = runner.freeable_bytes
        return self._open(action, action.pid, lambda pid: self._recheck(pid, runner), now, unread)

    def _child(self, action: Action, runner: RunnerReading, now: float) -> Victim | None:
        """One of a server's runners, held by its pidfd, if it is proven and still the same."""
        about = replace(action, pid=runner.pid, start_ticks=runner.start_ticks)
        child = self._runner(about, runner, now) if runner.proven else None
        return child if isinstance(child, Victim) else None

    def _open(
        self, action: Action, pid: int, recheck: Callable[[int], str], now: float, unread_bytes: int = 0
    ) -> Victim | Outcome:
        """A pidfd that provably is the process meant, or why not."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return _outcome(action, OutcomeKind.SKIPPED, now, "freed by itself before we acted")
        except OSError as error:
            return _outcome(action, OutcomeKind.FAILED, now, f"pidfd_open: {error.strerror}")
        problem = "it has just exited" if victims.is_readable(pidfd) else recheck(pid)
        if problem:
            os.close(pidfd)
            return _outcome(action, OutcomeKind.SKIPPED, now, f"not touched: {problem}")
        before = victims.freeable_bytes(self._proc, pid)
        return Victim(pid, pidfd, unread_bytes if before is None else before, self._proc)

    def _shoot(self, watched: _Watched) -> Outcome | None:
        """Signal the victim, then its train; an Outcome if the victim could not be signalled."""
        action, now = watched.action, watched.since_at
        assert watched.victim is not None
        try:
            signal.pidfd_send_signal(watched.victim.pidfd, signal.SIGKILL)
        except OSError as error:
            victims.close(watched.victims)
            if error.errno == errno.ESRCH:
                return _outcome(action, OutcomeKind.SKIPPED, now, "it had exited before the signal")
            return _outcome(action, OutcomeKind.FAILED, now, f"the signal was refused: {error.strerror}")
        for child in watched.train:
            # It has just exited, or is another user's: its end, or its staying, is seen.
            with suppress(OSError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        for victim in watched.victims:
            self._reaper.release(victim.pid, victim.pidfd)
        shot = {victim.pid for victim in watched.victims}
        for other in self._watched.values():
            if other.victim is not None and other.victim.pid in shot:
                other.overtaken = "the process was killed meanwhile"
        self._begin(watched)
        return None

    def _begin(self, watched: _Watched) -> None:
        self._watched[watched.action.id] = watched
        for victim in watched.victims:
            self._poller.add(victim.pidfd, partial(self._on_exit, victim), IN)

    def _on_exit(self, victim: Victim, events: int) -> None:
        del events
        victim.exited = True
        self._poller.remove(victim.pidfd)

    def _judge(self, watched: _Watched, now: float) -> Outcome:
        action, victim = watched.action, watched.victim
        exited = victim is not None and victim.gone()
        freed = sum(one.freed_bytes() for one in watched.victims)
        left = "" if exited or victim is None else victim.why_there()
        behind = _left_behind(watched.train)
        self._end(watched)
        if watched.overtaken:
            return _outcome(action, OutcomeKind.SKIPPED, now, watched.overtaken)
        took = f"{now - watched.since_at:.2f} s"
        if exited:
            ended = _outcome(action, OutcomeKind.DONE, now, f"gone after {took}{behind}")
        elif action.kind in OURS:
            ended = _outcome(action, OutcomeKind.FAILED, now, f"{STILL_THERE} {took} after SIGKILL{left}")
        elif watched.accepted:
            ended = _outcome(action, OutcomeKind.FAILED, now, f"accepted but not honoured in {took}")
        else:
            ended = _outcome(action, OutcomeKind.FAILED, now, f"no answer from hands in {took}")
        return replace(ended, freed_bytes=freed)

    def _end(self, watched: _Watched) -> None:
        self._watched.pop(watched.action.id, None)
        for victim in watched.victims:
            self._poller.remove(victim.pidfd)
        victims.close(watched.victims)


def _left_behind(train: Sequence[Victim]) -> str:
    """What became of a server's runners, as the end of a sentence."""
    stuck = [child for child in train if not child.gone()]
    if not stuck:
        return f", {count_text(len(train), 'runner')} of it as well" if train else ""
    pids = ", ".join(str(child.pid) for child in stuck)
    return (
        f", but {len(stuck)} of its {count_text(len(train), 'runner')} (pid {pids}) not{stuck[0].why_there()}"
    )


def _outcome(action: Action, kind: OutcomeKind, now: float, detail: str) -> Outcome:
    return Outcome(action.id, kind, now, detail=detail)
