"""What hands are to tell a person: kept, a little of it, while there are no hands to take it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ollama_guard.core.events import Event
from ollama_guard.wire import Noticed

# Events that wait for hands; more of them in one absence of hands would tell nobody anything new.
LIMIT = 32


class Notices:
    """Bounded; the oldest give way, counted in ``dropped``."""

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[Noticed] = deque()

    def add(self, events: Iterable[Event], wall: float) -> None:
        """Keep those of these events that a person should know of."""
        for event in events:
            if not event.alerts:
                continue
            if len(self._waiting) >= LIMIT:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(Noticed(event.name, event.message, wall, dict(event.fields)))

    def pass_on(self, send: Callable[[Noticed], object]) -> None:
        """Hand over what waits; never waits itself. To be called while hands are alive."""
        while self._waiting:
            send(self._waiting.popleft())  # what does not fit is counted by the wire
