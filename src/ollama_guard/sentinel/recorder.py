"""The sentinel's half of the flight recorder: every input of the brain, in order, to `hands`.

It records once `hands` want a trace, gathers lines until they are worth a message, and never waits: what
can't be handed over is counted, and what comes after it starts with a whole header again.
"""

from __future__ import annotations

from collections.abc import Callable

from ollama_guard import __version__
from ollama_guard.core.model import Decision, Level, Outcome, Snapshot
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import Policy
from ollama_guard.core.scribe import Scribe
from ollama_guard.core.state import State
from ollama_guard.core.trace import FILE, GAP, START, Header
from ollama_guard.sentinel import clock
from ollama_guard.wire import Recorded, TraceWanted

# Lines are handed over together when the last were this long ago (seconds), while calm and from soft on: a
# message costs as much as a line (0.1 ms with cold caches), and near a threshold there are fifty a second.
GATHER_CALM_SECONDS, GATHER_SECONDS = 5.0, 0.25
# Or when they are this long together (characters), far below the wire's limit for one packet.
GATHER_LENGTH = 16 * 1024
# After a loss nothing is tried for this long (seconds): a header costs a few milliseconds.
PAUSE_SECONDS = 1.0


class Recorder:
    """What `Mind` tells of itself. ``_why`` is the reason of the header that is due, None if none is."""

    def __init__(self) -> None:
        self._send: Callable[[Recorded], bool] | None = None
        self._scribe = Scribe()
        self._why: str | None = START
        self._lost = 0
        self._told_lost = 0  # by the header that is gathered
        self._lines: list[str] = []
        self._length = 0
        self._starts = False
        self._level = Level.OK
        self._handed_at = 0.0
        self._again_at = 0.0

    def wanted(self, wish: TraceWanted, send: Callable[[Recorded], bool]) -> None:
        """`hands` want a trace that starts now, or none any more."""
        self.flush()
        running = self._send is not None
        if not wish.wanted:
            self.stop()
            return
        self._send = send
        self._lost += wish.lost
        self._again_at = 0.0
        if running and wish.continues and self._why is None:
            self._why = FILE
        else:
            self._why = GAP if running or self._lost else START

    def stop(self) -> None:
        """Nobody listens any more."""
        self._send, self._why, self._lost = None, START, 0
        self._lines, self._length, self._starts = [], 0, False

    def looked(
        self, policy: Policy, before: State, snapshot: Snapshot, decision: Decision, *, again: bool
    ) -> None:
        """The brain decided, from the state ``before``; ``again`` if not for the first time from that one."""
        if self._send is None:
            return
        now = clock.boottime()
        self._record(policy, before, now, lambda: self._scribe.look(snapshot, decision, again=again))
        telling = decision.level is not self._level or bool(decision.actions)
        self._level = decision.level
        patience = GATHER_CALM_SECONDS if self._level is Level.OK else GATHER_SECONDS
        if telling or self._starts or now - self._handed_at >= patience or self._length >= GATHER_LENGTH:
            self.flush()

    def absorbed(self, policy: Policy, before: State, outcome: Outcome) -> None:
        """The brain took in how an action ended."""
        if self._send is not None:
            self._record(policy, before, clock.boottime(), lambda: self._scribe.ended(outcome))

    def glanced(self, at: float, glance: Glance) -> None:
        """Nothing was decided, but memory was looked at; where a header is due the next look tells more."""
        if self._send is not None and self._why is None:
            self._write(lambda: self._scribe.glanced(at, glance.available_bytes))

    def adopted(self, policy: Policy) -> None:
        """Another policy is in force; a header that is due will hold it anyway."""
        if self._send is not None and self._why is None:
            self._write(lambda: self._scribe.adopted(policy))

    def flush(self) -> None:
        """Hand over what was gathered."""
        if not self._lines or self._send is None:
            return
        count = len(self._lines)
        message = Recorded("\n".join(self._lines) + "\n", count, self._level, self._starts)
        self._lines, self._length, self._starts = [], 0, False
        self._handed_at = clock.boottime()
        if not self._send(message):
            self._lose(count + (self._told_lost if message.starts else 0))

    def _record(self, policy: Policy, before: State, now: float, line: Callable[[], str]) -> None:
        """Write one line, after a header if one is due; while that can't be, it is lost."""
        if self._why is not None:
            self.flush()
            if now < self._again_at:
                self._lost += 1
                return
            header = Header(__version__, clock.boot_id(), clock.wall(), self._why, self._lost, policy, before)
            self._told_lost, self._lost = self._lost, 0
            self._why, self._starts = None, True
            self._write(lambda: self._scribe.header(header))
        if self._why is None:
            self._write(line)

    def _write(self, line: Callable[[], str]) -> None:
        try:
            text = line()
        except (TypeError, ValueError):  # what JSON can't hold
            self._lose(1)
            return
        self._lines.append(text)
        self._length += len(text)

    def _lose(self, count: int) -> None:
        self._why = GAP
        self._lost += count
        self._again_at = clock.boottime() + PAUSE_SECONDS
