"""Watches Ollama's API: probes, catalogue, found and lost. All but the calls runs in the main loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

from ollama_guard.core.model import ApiReading, CatalogueEntry, LoadedModel
from ollama_guard.core.policy import Policy
from ollama_guard.errors import GuardError, OllamaError
from ollama_guard.hands.adapters.ollama.answers import is_old_dialect
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, Overdue, Result
from ollama_guard.hands.polling import PollSchedule
from ollama_guard.ports import OllamaPort
from ollama_guard.wire import ApiObserved, CatalogueObserved, Message

# Seconds between two looks at the catalogue: models come by `ollama pull`, which takes minutes.
CATALOGUE_SECONDS = 60.0
# Seconds until the next look when ps names something unknown, or models are left to be asked for.
CATALOGUE_SOON_SECONDS = 5.0
# A catalogue pass makes many calls; it may take so many times the deadline of one.
CATALOGUE_CALLS = 3

PortFactory = Callable[[str], OllamaPort]
Send = Callable[[Message], object]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Answered(Generic[T]):
    """A call's value, when it was sent (boottime seconds), and how long it took."""

    value: T
    sent_at: float
    seconds: float


class OllamaWatch:
    """Keeps an `ApiReading` and the catalogue fresh, and sends both to the sentinel.

    Two workers probe, so that a blocked ``/api/ps`` leaves ``/api/version`` its own way.
    """

    def __init__(
        self, policy: Policy, make_port: PortFactory, mailbox: Mailbox, send: Send, clock: Clock
    ) -> None:
        self._make_port = make_port
        self._send = send
        self._clock = clock
        self._probing = Lane("probing", 2, mailbox, clock)
        self._listing = Lane("catalogue", 1, mailbox, clock)
        self._started_at = clock()
        self._begin(policy)

    def _begin(self, policy: Policy) -> None:
        self._policy = policy
        self.port = self._make_port(policy.ollama.url)
        self._schedule = PollSchedule(policy.ollama.poll_seconds)
        self._reading = ApiReading()
        self._alive: bool | None = None
        self._catalogue: tuple[CatalogueEntry, ...] | None = None
        self._catalogue_due_at: float | None = 0.0
        self._changed_at = 0.0
        self._unknown: frozenset[str] = frozenset()

    @property
    def catalogue(self) -> tuple[CatalogueEntry, ...]:
        """The installed models as last told; none before the first answer."""
        return self._catalogue or ()

    def follow(self, policy: Policy) -> None:
        """Take a new policy over; another URL is another Ollama, so everything begins anew."""
        if policy.ollama.url != self._policy.ollama.url:
            self._begin(policy)
            return
        self._policy = policy
        self._schedule.poll_seconds = policy.ollama.poll_seconds

    def wanted(self, reason: str, *, pressed: bool) -> None:
        """The sentinel wants to know now."""
        self._schedule.wanted(reason, pressed=pressed, now=self._clock())

    def look_again(self) -> None:
        """Names have changed: look at the catalogue now; what was asked before counts no more."""
        self._changed_at = self._clock()
        if self._catalogue_due_at is not None:
            self._catalogue_due_at = min(self._catalogue_due_at, self._changed_at)

    def due_at(self) -> float:
        """When `step` has something to do, in boottime seconds."""
        due = (self._schedule.ps_due_at(), self._schedule.version_due_at(), self._catalogue_due_at)
        return min((at for at in due if at is not None), default=float("inf"))

    def step(self) -> None:
        """Start what is due."""
        self._probing.check()
        self._listing.check()
        now = self._clock()
        if _is_due(self._schedule.version_due_at(), now):
            self._schedule.version_sent(now)
            self._call(self._probing, self.port.version, 1, self._on_version)
        if _is_due(self._schedule.ps_due_at(), now):
            self._schedule.ps_sent(now)
            self._call(self._probing, self.port.loaded, 1, self._on_loaded)
        if _is_due(self._catalogue_due_at, now):
            self._catalogue_due_at = None
            self._call(self._listing, self.port.catalogue, CATALOGUE_CALLS, self._on_catalogue)

    def _call(
        self,
        lane: Lane,
        call: Callable[[float], T],
        calls: int,
        then: Callable[[_Answered[T] | GuardError], None],
    ) -> None:
        seconds = self._policy.ollama.request_timeout_seconds * calls
        port, clock = self.port, self._clock

        def work() -> _Answered[T]:
            sent_at = clock()
            value = call(seconds)
            return _Answered(value, sent_at, clock() - sent_at)

        def settle(result: Result) -> None:
            if port is self.port:  # else the answer of an Ollama that the policy no longer names
                then(result.error or cast("_Answered[T]", result.value))

        lane.submit(work, clock() + seconds, settle)

    def _on_version(self, outcome: _Answered[str] | GuardError) -> None:
        self._schedule.version_ended(answered=not isinstance(outcome, GuardError))
        if isinstance(outcome, GuardError):
            self._failed(outcome)
        else:
            self._reading = replace(self._reading, version=outcome.value)
            self._answered(outcome.sent_at, outcome.seconds)
        self._send(ApiObserved(self._reading))

    def _on_loaded(self, outcome: _Answered[tuple[LoadedModel, ...]] | GuardError) -> None:
        if isinstance(outcome, GuardError):
            self._schedule.ps_failed(_kind(outcome))
            self._reading = replace(self._reading, loaded_error=_told(outcome))
            self._failed(outcome)
        else:
            loaded = outcome.value
            self._schedule.ps_answered(changed=_listed(loaded) != _listed(self._reading.loaded))
            self._reading = replace(self._reading, loaded=loaded, loaded_at=outcome.sent_at, loaded_error="")
            self._answered(outcome.sent_at, outcome.seconds)
            self._look_up(frozenset(model.name for model in loaded if model.blob is None))
        self._send(ApiObserved(self._reading))

    def _on_catalogue(self, outcome: _Answered[tuple[CatalogueEntry, ...]] | GuardError) -> None:
        now = self._clock()
        self._catalogue_due_at = now + CATALOGUE_SECONDS
        if isinstance(outcome, GuardError):
            return  # an Ollama that is found again is asked again, and so it is in a minute
        if outcome.sent_at < self._changed_at:
            self._catalogue_due_at = now
            return
        if outcome.value != self._catalogue:
            if not getattr(self.port, "catalogue_complete", True):
                self._catalogue_due_at = now + CATALOGUE_SOON_SECONDS
            self._catalogue = outcome.value
            self._send(CatalogueObserved(outcome.value))
            if self._unknown:
                self._schedule.once_more(now)

    def _look_up(self, unknown: frozenset[str]) -> None:
        """A name that the catalogue lacks brings the next look forward, once per set of such names."""
        if unknown and unknown != self._unknown and self._catalogue_due_at is not None:
            soon = self._clock() + (0.0 if self._catalogue is None else CATALOGUE_SOON_SECONDS)
            self._catalogue_due_at = min(self._catalogue_due_at, soon)
        self._unknown = unknown

    def _answered(self, sent_at: float, seconds: float) -> None:
        self._reading = replace(
            self._reading,
            probed_at=sent_at,
            answered_at=self._clock(),
            error="",
            latency_seconds=seconds,
        )
        if not self._alive and self._reading.version is not None:
            stale = self._alive is False or self._catalogue is None
            self._alive = True
            if stale and self._catalogue_due_at is not None:
                self._catalogue_due_at = min(self._catalogue_due_at, self._clock())
            url, version = self._policy.ollama.url, self._reading.version
            log().notice(
                "ollama.found",
                message=f"Ollama {version} answers at {url}",
                url=url,
                version=version,
                dialect="before 0.30" if is_old_dialect(version) else "0.30 or newer",
            )

    def _failed(self, problem: GuardError) -> None:
        now = self._clock()
        self._reading = replace(self._reading, probed_at=now, error=_told(problem))
        silent = now - (self._reading.answered_at or self._started_at)
        gone = _kind(problem) == "refused" or silent > self._policy.ollama.unresponsive_after_seconds
        if not gone or self._alive is False:
            return
        self._alive = False
        log().warning(
            "ollama.lost",
            message=f"Ollama does not answer at {self._policy.ollama.url}: {problem}",
            url=self._policy.ollama.url,
            kind=_kind(problem),
            silent_seconds=round(silent, 1),
        )


def _is_due(at: float | None, now: float) -> bool:
    return at is not None and at <= now


def _kind(problem: GuardError) -> str:
    """How it failed; a fault of our own is no word about Ollama, which a time-out would be."""
    if isinstance(problem, OllamaError):
        return problem.kind
    return "timeout" if isinstance(problem, Overdue) else "broken"


def _told(problem: GuardError) -> str:
    return f"{_kind(problem)}: {problem}"


def _listed(loaded: tuple[LoadedModel, ...]) -> set[tuple[str, str | None]]:
    return {(model.name, model.blob) for model in loaded}
