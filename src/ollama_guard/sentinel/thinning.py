"""Bounds the volume of the log: a thing that repeats is told at doubling intervals, with a count."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_guard.core.events import Event

# The first repeat within a second is held back; then 2, 4, … seconds. A blob that is killed each second
# for five minutes gives about nine lines.
_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 300.0
# Quiet for this long (or for two intervals) makes the next one news again.
_FORGET_SECONDS = 60.0
# Distinct things remembered; foreign text can make as many as it likes.
_REMEMBERED = 256
# Rare by nature, or wanted each time by the person who asked.
_ALWAYS = frozenset(
    {
        "guard.started", "guard.stopping", "guard.tested", "guard.reported", "config.reloaded",
        "config.rejected", "pause.started", "pause.ended", "request.answered", "level.changed",
    }
)  # fmt: skip


@dataclass(slots=True)
class _Repeat:
    told_at: float
    seen_at: float
    interval: float = _FIRST_SECONDS
    held: Event | None = None
    count: int = 0


class Thinning:
    """Remembers when each (event, rung, blob) was told last; a harder rung on the same blob is news."""

    def __init__(self) -> None:
        self._repeats: dict[tuple[str, str, str], _Repeat] = {}

    def pass_on(self, event: Event, now: float) -> Event | None:
        """The event to write now, or None while it is held back."""
        if event.name in _ALWAYS:
            return event
        about = str(event.fields.get("blob") or event.message)
        key = (event.name, str(event.fields.get("rung", "")), about)
        found = self._repeats.get(key)
        if found is None or now - found.seen_at > max(_FORGET_SECONDS, 2 * found.interval):
            self._remember(key, _Repeat(told_at=now, seen_at=now))
            return event
        found.seen_at = now
        if now - found.told_at >= found.interval:
            return self._tell(found, event, now)
        found.held = event
        found.count += 1
        return None

    def due(self, now: float) -> list[Event]:
        """Events that were held back and whose interval is over."""
        waiting = [r for r in self._repeats.values() if r.held and now - r.told_at >= r.interval]
        return self._release(waiting, now)

    def rest(self, now: float) -> list[Event]:
        """Everything that is still held back."""
        return self._release([r for r in self._repeats.values() if r.held], now)

    def _release(self, repeats: list[_Repeat], now: float) -> list[Event]:
        events = []
        for repeat in repeats:
            if repeat.held is not None:
                repeat.count -= 1
                events.append(self._tell(repeat, repeat.held, now))
        return events

    @staticmethod
    def _tell(repeat: _Repeat, event: Event, now: float) -> Event:
        """Tell one now: the next waits twice as long. ``repeated`` counts those held back before it."""
        count, repeat.count, repeat.held, repeat.told_at = repeat.count, 0, None, now
        repeat.interval = min(repeat.interval * 2, _LONGEST_SECONDS)
        return replace(event, fields={**event.fields, "repeated": count}) if count else event

    def _remember(self, key: tuple[str, str, str], repeat: _Repeat) -> None:
        self._repeats.pop(key, None)
        if len(self._repeats) >= _REMEMBERED:
            del self._repeats[next(iter(self._repeats))]
        self._repeats[key] = repeat
