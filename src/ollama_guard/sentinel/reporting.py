"""What the guard tells of itself: the status document, the line for systemd, the state on USR1."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard import __version__
from ollama_guard.core.events import Event, Value
from ollama_guard.core.footprint import Ledger
from ollama_guard.core.model import Snapshot
from ollama_guard.core.status import view
from ollama_guard.core.units import bytes_text, count_text
from ollama_guard.sentinel import clock
from ollama_guard.sentinel.outfit import Outfit
from ollama_guard.sentinel.supervise import Hands
from ollama_guard.wire import SceneTold, StatusPosted

# Numbers alone are posted at most twice a second: people look, and programs poll, no faster. What somebody
# did or decided is posted at once, so that a status after a command shows what the command did.
_STATUS_SECONDS = 0.5
# Reading one's own smaps_rollup costs about a fifth of a millisecond.
_PSS_SECONDS = 30.0


class Reporting:
    """Counts and renders; decides nothing."""

    def __init__(self, outfit: Outfit, hands: Hands) -> None:
        self._outfit = outfit
        self._hands = hands
        self._posted_at = 0.0
        self._posted_news: object = None
        self._pss_at: float | None = None
        self._pss_bytes: int | None = None
        self._tick_seconds = 0.0
        self._ready = False

    def after_tick(self, now: float) -> None:
        """To be called at the end of a completed tick that began at ``now``."""
        self._tick_seconds = clock.boottime() - now
        notifier, snapshot = self._outfit.notifier, self._outfit.mind.snapshot
        if not self._ready:
            self._ready = True
            notifier.ready()
        notifier.watchdog(now)
        news = self._news()
        if snapshot is None or (now - self._posted_at < _STATUS_SECONDS and news == self._posted_news):
            return
        self._posted_at, self._posted_news = now, news
        notifier.status(self._line(snapshot))
        if self._hands.alive:
            mind = self._outfit.mind
            self._hands.send(StatusPosted(view(mind.policy, mind.state, snapshot, self._guard(now))))

    def _news(self) -> object:
        """What a status must not be late with: all that changes by an act, not with every reading."""
        state = self._outfit.mind.state
        conditions = tuple(held.condition for held in state.conditions)
        acts = (tuple(action.id for action in state.in_flight), state.finished[-1:])
        ladder = tuple((tier.name, tier.allowed) for tier in state.tiers)
        return state.level, conditions, state.durable, state.servers, acts, ladder

    def show_scene(self, scene_id: int) -> None:
        """What the last tick saw and knew, for hands to answer from: what would fit costs a tick nothing."""
        mind = self._outfit.mind
        if mind.snapshot is not None:
            seen = replace(mind.snapshot, catalogue=(), requests=(), footprints=Ledger())
            self._hands.send(SceneTold(scene_id, mind.state, seen))

    def report(self) -> Event:
        """The state in one line, with its key numbers."""
        snapshot = self._outfit.mind.snapshot
        guard = self._guard(clock.boottime())
        fields: dict[str, Value] = {
            key: guard[key] for key in ("pss_bytes", "cpu_seconds", "tick_seconds", "dropped")
        }
        state = self._outfit.mind.state
        fields |= {
            "level": state.level.word,
            "condemned": len(state.durable.condemned),
            "in_flight": len(state.in_flight),
            "hands": self._hands.reason or "alive",
        }
        size = "an unknown size" if guard["pss_bytes"] is None else bytes_text(guard["pss_bytes"])
        lost = f"{count_text(guard['dropped'], 'message')} lost"
        own = f"the guard itself: {size}, {guard['cpu_seconds']:.1f} s of CPU time so far, {lost}"
        seen = self._line(snapshot) if snapshot else "no tick yet"
        text = f"{seen}; {own}; {self._hands.reason or 'hands are alive'}"
        return Event("guard.reported", text, fields=fields)

    def _line(self, snapshot: Snapshot) -> str:
        """``level ok; host 3.1 GiB of 4.0 GiB available; 2 models in memory, 1.4 GiB``."""
        state = self._outfit.mind.state
        domains = ", ".join(
            f"{d.name} {bytes_text(d.available_bytes)} of {bytes_text(d.capacity_bytes or 0)} available"
            for d in snapshot.domains
            if d.available_bytes is not None
        )
        held = sum(runner.resident_bytes for runner in snapshot.runners)
        count = len(snapshot.runners)
        models = (
            f"{count_text(count, 'model')} in memory, {bytes_text(held)}" if count else "no model in memory"
        )
        servers = "" if snapshot.servers else "; no Ollama server found"
        wrong = "".join(f"; {c.condition}: {c.reason}" for c in state.conditions)
        return f"level {state.level.word}; {domains or 'memory unknown'}; {models}{servers}{wrong}"

    def _guard(self, now: float) -> dict[str, Any]:
        if self._pss_at is None or now - self._pss_at >= _PSS_SECONDS:
            self._pss_at, self._pss_bytes = now, own_pss_bytes()
        theirs = self._hands.pss_bytes
        both = None if self._pss_bytes is None else self._pss_bytes + (theirs or 0)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "pss_bytes": both,
            "cpu_seconds": round(time.process_time(), 3),
            "tick_seconds": round(self._tick_seconds, 6),
            "dropped": self._outfit.dropped() + self._hands.dropped,
        }


def own_pss_bytes(path: Path = Path("/proc/self/smaps_rollup")) -> int | None:
    """This process' proportional share of memory, or None where the kernel does not tell."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:")), None)
