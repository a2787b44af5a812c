"""Tells the owner's webhook what a person should know: after the act, in a lane, again until it was taken.

At least once, in order: an alert that was delivered just before hands died comes again, with the same ``id``.
A disk that fails or hangs costs what would have outlived a restart, a webhook that hangs costs time, and
neither costs anything else.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ollama_guard.control.apps import Answer
from ollama_guard.core.policy import NotifyPolicy
from ollama_guard.core.units import count_text, seconds_text
from ollama_guard.errors import GuardError
from ollama_guard.hands.adapters.webhook import deliver, host_of
from ollama_guard.hands.alertdoc import NO_WEBHOOK, document, event_of, trial_document
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, Result
from ollama_guard.hands.spool import Spool
from ollama_guard.hands.weighing import Scales
from ollama_guard.wire import Noticed

# Alerts kept at most: a webhook that was away for a week is told of the newest.
LIMIT = 100
# Seconds that an alert waits for a look at who holds memory, which takes some milliseconds, 2 s at worst.
GATHER_SECONDS = 2.5
# Seconds until the next try, doubling: a webhook that restarts is back in seconds, one that is broken is not
# hammered. With the longest, a hundred alerts are told within a day after it came back.
BACKOFF_FIRST_SECONDS = 5.0
BACKOFF_LONGEST_SECONDS = 600.0
# Seconds for one write, with its sync; a slow card takes some tenths.
DISK_SECONDS = 5.0
# Seconds until a folder that could not be read is tried again.
READ_AGAIN_SECONDS = 60.0
# Seconds that one alert stays ahead of the next: a storm of them is no denial of service.
GAP_SECONDS = 1.0

Deliver = Callable[[str, bytes, float], None]


@dataclass(frozen=True, slots=True)
class _Alert:
    """One to deliver: the file that keeps it, the event that it tells of, and the document."""

    name: str
    event: str
    body: bytes


class Alerts:
    """Keeps and delivers alerts; all but `test` is the main loop's."""

    def __init__(
        self,
        state_dir: Path,
        policy: NotifyPolicy,
        scales: Scales,
        mailbox: Mailbox,
        clock: Clock,
        post: Deliver = deliver,
    ) -> None:
        self._spool = Spool(state_dir / "alerts", LIMIT)
        self._policy = policy
        self._scales = scales
        self._mailbox = mailbox
        self._clock = clock
        self._post = post
        self._lanes: list[Lane] = []
        self._numbers = itertools.count()
        self._gathering: deque[tuple[Noticed, float]] = deque()
        self._waiting: deque[_Alert] = deque()
        self._sending: _Alert | None = None
        self._read_at: float | None = 0.0
        self._loaded = self._keeping = self._changed = self._disk_failed = False
        self._next_at = 0.0
        self._tries = 0

    def follow(self, policy: NotifyPolicy) -> None:
        """Take a reloaded policy: what waits goes to the new webhook, at once."""
        if policy.webhook != self._policy.webhook:
            self._next_at, self._tries = self._clock(), 0
        self._policy = policy

    def noticed(self, notice: Noticed) -> None:
        """Something happened that a person should know of."""
        if self._policy.webhook and len(self._gathering) < LIMIT:
            self._scales.want()
            self._gathering.append((notice, self._clock() + GATHER_SECONDS))

    def due_at(self) -> float:
        """When `step` has something to do, in boottime seconds."""
        if not self._policy.webhook:
            return float("inf")
        gathered = self._gathering[0][1] if self._gathering else float("inf")
        reading = float("inf") if self._read_at is None else self._read_at
        return min(gathered, reading, self._next_at if self._ready() else float("inf"))

    def step(self) -> None:
        """Do what is due; never waits."""
        for lane in self._lanes:
            lane.check()
        if not self._policy.webhook:
            return
        now = self._clock()
        if self._read_at is not None and now >= self._read_at:
            self._read_at = None
            self._files.submit(self._spool.read, now + DISK_SECONDS, self._on_read)
        known = self._scales.told()[0] is not None
        while self._gathering and (known or now >= self._gathering[0][1]):
            self._line_up(self._gathering.popleft()[0])
        if self._ready() and now >= self._next_at:
            self._send(now)
        if self._changed and self._loaded and not (self._keeping or self._files.stuck):
            self._keep(now)

    def test(self, deadline_seconds: float) -> Answer | None:
        """Deliver a test now, past all others, and tell what became of it; for the sockets' threads."""
        done, answers = threading.Event(), list[Answer]()

        def begin() -> None:
            policy = self._policy
            if not policy.webhook:
                settle(Result(error=GuardError(NO_WEBHOOK)))
                return
            body = trial_document(self._scales.told()[0])
            self._tests.submit(
                partial(self._post, policy.webhook, body, policy.timeout_seconds),
                self._clock() + policy.timeout_seconds,
                settle,
            )

        def settle(result: Result) -> None:
            text = str(result.error or f"a test alert was delivered to {host_of(self._policy.webhook)}")
            answers.append(Answer(result.error is None, text))
            done.set()

        self._mailbox.put(begin)
        done.wait(deadline_seconds)
        return answers[0] if answers else None

    @cached_property
    def _files(self) -> Lane:
        return self._opened("alert files")

    @cached_property
    def _lane(self) -> Lane:
        return self._opened("alerts")

    @cached_property
    def _tests(self) -> Lane:
        return self._opened("alert tests")

    def _opened(self, name: str) -> Lane:
        """A lane at its first use: who wants no alerts has no threads for them."""
        self._lanes.append(Lane(name, 1, self._mailbox, self._clock))
        return self._lanes[-1]

    def _ready(self) -> bool:
        return bool(self._waiting) and self._sending is None

    def _line_up(self, notice: Noticed) -> None:
        """Put one at the end of the line."""
        name = f"{int(notice.wall * 1000):013d}-{next(self._numbers) % 10_000:04d}.json"
        body = document(notice, name, self._scales.told()[0])
        self._waiting.append(_Alert(name, notice.name, body))
        self._changed = True
        self._give_way()

    def _give_way(self) -> None:
        """Of too many the oldest go, save the one that is on its way just now."""
        while len(self._waiting) > LIMIT:
            lost = self._waiting.popleft()
            text = f"an alert of {lost.event} was given up: {LIMIT} newer ones wait for the webhook"
            host = host_of(self._policy.webhook)
            log().warning("alert.failed", message=text, alert=lost.event, host=host)

    def _send(self, now: float) -> None:
        if self._lane.stuck:  # a name server that hangs: the next thread would hang in it as well
            self._next_at = now + BACKOFF_LONGEST_SECONDS
            return
        policy, alert = self._policy, self._waiting.popleft()
        self._sending = alert
        self._lane.submit(
            partial(self._post, policy.webhook, alert.body, policy.timeout_seconds),
            now + policy.timeout_seconds,
            lambda result: self._on_sent(alert, result),
        )

    def _on_sent(self, alert: _Alert, result: Result) -> None:
        now, host = self._clock(), host_of(self._policy.webhook)
        self._sending = None
        self._tries += 1
        if result.error is None:
            self._changed = True
            tries = "" if self._tries == 1 else f", at try {self._tries}"
            text = f"{host} was told of {alert.event}{tries}"
            log().info("alert.sent", message=text, alert=alert.event, host=host, tries=self._tries)
            self._next_at, self._tries = now + GAP_SECONDS, 0
            return
        self._waiting.appendleft(alert)
        wait = min(BACKOFF_FIRST_SECONDS * 2 ** min(self._tries - 1, 20), BACKOFF_LONGEST_SECONDS)
        self._next_at = now + wait
        if self._tries == 1 or wait == BACKOFF_LONGEST_SECONDS:
            waiting = count_text(len(self._waiting), "alert")
            text = f"{result.error}; {waiting} kept, the next try in {seconds_text(wait)}"
            log().warning("alert.failed", message=text, alert=alert.event, host=host, tries=self._tries)

    def _on_read(self, result: Result) -> None:
        """What an earlier life left behind goes first; until it is known, nothing on disk is touched."""
        if not isinstance(result.value, list):
            self._read_at = self._clock() + READ_AGAIN_SECONDS
            self._warn(result)
            return
        self._loaded = True
        older = [_Alert(name, event_of(body), body) for name, body in result.value]
        self._waiting.extendleft(reversed(older))
        self._give_way()

    def _keep(self, now: float) -> None:
        """Have the disk hold what waits."""
        line = (*self._waiting, *((self._sending,) if self._sending else ()))
        self._keeping, self._changed = True, False
        work = partial(self._spool.keep, {alert.name: alert.body for alert in line})
        self._files.submit(work, now + DISK_SECONDS, self._on_kept)

    def _on_kept(self, result: Result) -> None:
        self._keeping = False
        self._warn(result)

    def _warn(self, result: Result) -> None:
        """Say once that the disk fails."""
        if result.error is not None and not self._disk_failed:
            text = f"alerts would not survive a restart of the guard: {result.error}"
            log().warning("guard.warned", message=text)
        self._disk_failed = result.error is not None
