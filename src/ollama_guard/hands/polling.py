"""When to ask Ollama what: pure bookkeeping, no clock and no threads.

Each ``/api/ps`` is a line in the owner's log, so when all is calm it is asked as rarely as the policy
says and is the proof of life as well. It is asked at once when the sentinel says so, a few times more
until its answer changes, and every two seconds while memory is short. ``/api/version`` is asked only
where ps can't tell: when it blocks (slow is not dead, facts 1.3), when it failed, and once for the version.
"""

from __future__ import annotations

# Seconds after a birth or death at which ps is asked again, until its answer changes: an unload is
# done within 0.2 s, a small load within a second or two.
FOLLOW_UPS_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
# Seconds between two ps while memory is short.
PRESSED_SECONDS = 2.0
# Seconds that lie between two ps at the least, whatever happens.
LEAST_GAP_SECONDS = 0.2
# More polls than this within so many seconds are a storm (a client that asks again and again for a model
# that is killed at birth): then they come no faster than while memory is short.
STORM_POLLS = 20
STORM_SECONDS = 30.0
# Seconds without an answer after which ps counts as blocked, so that version is asked beside it.
BLOCKED_SECONDS = 2.0
# Seconds between two version probes while ps blocks or fails.
VERSION_SECONDS = 5.0
# Seconds between two probes while nobody listens on the port: nobody logs them either.
REFUSED_SECONDS = 2.0


class PollSchedule:
    """Says when the next ``/api/ps`` and ``/api/version`` are due; fed with what happened."""

    def __init__(self, poll_seconds: float) -> None:
        self.poll_seconds = poll_seconds
        self.pressed = False
        self._last_word: tuple[str, bool] | None = None
        self._soon: list[float] = [0.0]
        self._sent_at: float | None = None
        self._recent: list[float] = []
        self._asking = False
        self._version_asking = False
        self._version_sent_at: float | None = None
        self._version_known = False
        self._failed_kind = ""

    def wanted(self, reason: str, *, pressed: bool, now: float) -> None:
        """The sentinel wants to know now; the same word again while pressed adds nothing."""
        word = (reason, pressed)
        if pressed and word == self._last_word:
            return
        self.pressed, self._last_word = pressed, word
        self._soon = [now, *(now + delay for delay in FOLLOW_UPS_SECONDS)]

    def once_more(self, now: float) -> None:
        """One ps out of turn."""
        self._soon.append(now)

    def ps_due_at(self) -> float | None:
        """When to ask ps; None while one is under way."""
        if self._asking:
            return None
        if self._sent_at is None:
            return 0.0
        calm = PRESSED_SECONDS if self.pressed else self.poll_seconds
        if self._failed_kind == "refused":
            calm = min(calm, REFUSED_SECONDS)
        due = min([self._sent_at + calm, *self._soon])
        storm = sum(1 for at in self._recent if self._sent_at - at < STORM_SECONDS) > STORM_POLLS
        return max(due, self._sent_at + (PRESSED_SECONDS if storm else LEAST_GAP_SECONDS))

    def ps_sent(self, now: float) -> None:
        """A ps is under way."""
        self._asking, self._sent_at = True, now
        self._soon = [at for at in self._soon if at > now]
        self._recent = [*self._recent[-STORM_POLLS:], now]

    def ps_answered(self, *, changed: bool) -> None:
        """Ps was answered; when something is new, the follow-ups have done their work."""
        self._asking, self._failed_kind = False, ""
        if changed:
            self._soon = []

    def ps_failed(self, kind: str) -> None:
        """Ps failed; a server that is gone must tell its version again when it is back."""
        self._asking, self._failed_kind = False, kind
        if kind == "refused":
            self._version_known = False

    def version_due_at(self) -> float | None:
        """When to ask for the version; None while nothing calls for it."""
        sent_at = self._version_sent_at
        if self._version_asking or (sent_at is not None and self._failed_kind == "refused"):
            return None  # while nobody listens, ps alone is asked, and often
        if sent_at is None:
            return 0.0
        if self._failed_kind:
            return sent_at + VERSION_SECONDS
        if not self._version_known:
            return sent_at + REFUSED_SECONDS
        if self._asking and self._sent_at is not None:
            return max(self._sent_at + BLOCKED_SECONDS, sent_at + VERSION_SECONDS)
        return None

    def version_sent(self, now: float) -> None:
        """A version probe is under way."""
        self._version_asking, self._version_sent_at = True, now

    def version_ended(self, *, answered: bool) -> None:
        """The version probe came back."""
        self._version_asking = False
        self._version_known = answered or self._version_known
