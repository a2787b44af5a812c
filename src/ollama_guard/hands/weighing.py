"""Has it found out who holds the memory, only when somebody asks or memory is short, in its own lane."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ollama_guard.core.codec import to_plain
from ollama_guard.hands.consumers import Consumer, top
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, Result

# Seconds between two looks: each reads a file of every unit, some milliseconds of CPU in all.
GAP_SECONDS = 5.0
# Seconds that a look may take, and until the next one when a thread hangs in the last.
LOOK_SECONDS = 2.0
STUCK_SECONDS = 30.0
# Seconds that somebody who asks for the status waits for a look; the rest of it is in memory.
WAIT_SECONDS = 1.0
# Seconds after which what was found says nothing any more.
OLD_SECONDS = 20.0
ON_DEMAND = "looked for only when somebody asks, or memory is short"


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the last look found, None with the reason when it failed."""

    consumers: tuple[Consumer, ...] | None = None
    reason: str = ON_DEMAND
    at: float = float("-inf")


class Scales:
    """`fresh` is for the sockets' threads, all else is the main loop's."""

    def __init__(
        self,
        mailbox: Mailbox,
        clock: Clock,
        look: Callable[[], tuple[Consumer, ...]] = lambda: top(LOOK_SECONDS),
    ) -> None:
        self._mailbox = mailbox
        self._clock = clock
        self._look = look
        self._lane = Lane("consumers", 1, mailbox, clock)
        self._weighed = Weighed()
        self._next_at = 0.0
        self._working = self._wanted = self._pressed = False
        self._waiting: list[threading.Event] = []

    def fresh(self) -> None:
        """Somebody asks: wait for a look, unless the last one is new, or hangs."""
        if self._clock() < self._next_at:
            return
        done = threading.Event()
        self._mailbox.put(lambda: self._ask(done))
        done.wait(WAIT_SECONDS)

    def want(self) -> None:
        """Somebody will ask soon: have a look as soon as one is due."""
        self._wanted = True

    def told(self) -> tuple[list[dict[str, Any]] | None, str]:
        """(the largest consumers, "") or (None, why they are not known)."""
        weighed = self._weighed
        if weighed.consumers is None:
            return None, weighed.reason
        if self._clock() - weighed.at > OLD_SECONDS:
            return None, ON_DEMAND
        return [to_plain(consumer) for consumer in weighed.consumers], ""

    def pressed(self, level: object) -> None:
        """The level that a new status tells: from soft on everybody wants to know."""
        self._pressed = level in ("soft", "hard", "critical")

    def due_at(self) -> float:
        """When `step` has something to do, in boottime seconds."""
        return self._next_at if (self._wanted or self._pressed) and not self._working else float("inf")

    def step(self) -> None:
        """Have a look, if it is time."""
        self._lane.check()
        now = self._clock()
        if now < self.due_at():
            return
        self._wanted = False
        if self._lane.stuck:
            self._next_at = now + STUCK_SECONDS
            self._answer()
            return
        self._working, self._next_at = True, now + GAP_SECONDS
        self._lane.submit(self._look, now + LOOK_SECONDS, self._on_looked)

    def _ask(self, done: threading.Event) -> None:
        self._waiting.append(done)
        self._wanted = True
        if self._clock() < self._next_at and not self._working:
            self._answer()

    def _on_looked(self, result: Result) -> None:
        self._working, now = False, self._clock()
        if isinstance(result.value, tuple):
            self._weighed = Weighed(result.value, "", now)
        else:
            self._weighed = Weighed(None, f"they can't be looked for: {result.error}", now)
        self._answer()

    def _answer(self) -> None:
        self._wanted = False
        for done in self._waiting:
            done.set()
        self._waiting.clear()
