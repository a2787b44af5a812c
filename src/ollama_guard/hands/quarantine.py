"""Quarantine as the main loop sees it: which job is due, what is told, how an action ended.

One lane with one worker, so that no two moves of a name ever meet; VERIFY has a lane of its own, since a
model that loads must not hold up a restore.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ollama_guard.core.model import (
    Action,
    ActionKind,
    CatalogueEntry,
    Outcome,
    OutcomeKind,
    ServerReading,
)
from ollama_guard.core.policy import Policy, QuarantineAction
from ollama_guard.core.quarantine import Goal
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.errors import GuardError
from ollama_guard.hands.api_moves import Limits, names_now
from ollama_guard.hands.hiding import Hider, Seen
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, NeverStarted, Overdue, Result
from ollama_guard.hands.verifying import verify
from ollama_guard.hands.watch import Send
from ollama_guard.ports import OllamaPort
from ollama_guard.wire import OutcomeReported, StoreObserved

# Seconds between two looks at the store: a name that a client pulled back, or a download that began, is known
# so soon. A look at fifty manifests takes 3 ms.
LOOK_SECONDS = 15.0
# Seconds between two messages while nothing changes.
TELL_SECONDS = 60.0
# Seconds for one look; a disk that takes longer counts as hanging, and is asked again at the next look.
PATIENCE_SECONDS = 5.0
# Seconds before an action's deadline at which hands are done with it, so that their word comes in time.
MARGIN_SECONDS = 0.5
# Seconds for the list of names after an action; a server that hangs shall not hold up its outcome.
LIST_SECONDS = 2.0
_OURS = (ActionKind.QUARANTINE, ActionKind.RESTORE, ActionKind.VERIFY)


@dataclass(frozen=True, slots=True)
class Known:
    """Who knows what is installed, and how to have that looked up again once names have changed."""

    catalogue: Callable[[], tuple[CatalogueEntry, ...]]
    look_again: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a job ended, and what the store looks like after it."""

    text: str = ""
    problem: GuardError | None = None
    store: StoreReading | None = None
    names: tuple[str, ...] | None = None


class Quarantine:
    """Looks, hides, restores, verifies; everything slow in its lanes."""

    def __init__(
        self,
        state_dir: Path,
        policy: Policy,
        known: Known,
        mailbox: Mailbox,
        send: Send,
        clock: Clock,
    ) -> None:
        self._hider = Hider(state_dir, clock)
        self._policy = policy
        self._catalogue, self._changed = known.catalogue, known.look_again
        self._send = send
        self._clock = clock
        self._lane = Lane("quarantine", 1, mailbox, clock)
        self._verifying = Lane("verify", 1, mailbox, clock)
        self._servers: tuple[ServerReading, ...] = ()
        self._look_at: float | None = 0.0
        self._told: StoreReading | None = None
        self._told_at = 0.0
        self._hangs = False
        self._names: tuple[str, ...] | None = None
        self._names_beside: tuple[CatalogueEntry, ...] = ()
        self._looked_beside: tuple[CatalogueEntry, ...] = ()
        self._under_way: set[int] = set()
        self._changes = 0

    def follow(self, policy: Policy) -> None:
        """Take a new policy over."""
        self._policy = policy
        self._soon()

    def servers_told(self, servers: tuple[ServerReading, ...]) -> None:
        """The proven servers, whose folder the store is."""
        self._servers = servers
        self._soon()

    def takes(self, action: Action) -> bool:
        """Whether this action is to be carried out here."""
        return action.kind in _OURS

    def act(self, action: Action, port: OllamaPort) -> None:
        """Start one action; its Outcome follows. The same id again, while under way, is ignored."""
        if action.id in self._under_way:
            return
        self._under_way.add(action.id)
        until = action.deadline_at - MARGIN_SECONDS
        lane = self._verifying if action.kind is ActionKind.VERIFY else self._lane
        seen = self._seen()
        lane.submit(
            lambda: self._carry_out(action, port, seen, until),
            until,
            lambda result: self._ended(action, result),
        )

    def due_at(self) -> float:
        """When `step` has something to do."""
        return float("inf") if self._look_at is None else self._look_at

    def step(self) -> None:
        """Look, if it is time; give up what is overdue."""
        self._lane.check()
        self._verifying.check()
        now, catalogue = self._clock(), self._catalogue()
        if catalogue is not self._looked_beside and self._look_at is not None:
            self._looked_beside, self._look_at = catalogue, now
        if self._look_at is None or now < self._look_at:
            return
        if self._lane.stuck:  # another look would hang as well, and take the next thread with it
            self._hangs, self._look_at = True, now + LOOK_SECONDS
            return
        self._look_at = None
        seen, changes = replace(self._seen(), hangs=False), self._changes
        self._lane.submit(
            lambda: self._hider.look(seen),
            now + PATIENCE_SECONDS,
            lambda result: self._looked(result, changes),
        )

    def _carry_out(self, action: Action, port: OllamaPort, seen: Seen, until: float) -> _Ended:
        if action.kind is ActionKind.VERIFY:
            return _Ended(verify(action, port, self._clock, until))
        if self._clock() >= until:
            raise NeverStarted("its deadline passed before it was begun")
        limits = Limits(until, self._policy.ollama.request_timeout_seconds)
        try:
            if action.kind is ActionKind.QUARANTINE:
                text = self._hider.hide(action, port, seen, limits, self._goal(action))
            else:
                text = self._hider.restore(action, port, seen, limits)
            ended = _Ended(text)
        except GuardError as problem:
            ended = _Ended(problem=problem)
        names = names_now(port, LIST_SECONDS)
        return replace(ended, names=names, store=self._hider.look(replace(seen, names=names)))

    def _goal(self, action: Action) -> Goal:
        """Deleted is only by the configuration's word; a person who wants that says `ollama rm`."""
        deletes = self._policy.quarantine.action is QuarantineAction.DELETE and action.request_id is None
        return Goal.DELETE if deletes else Goal.HIDE

    def _ended(self, action: Action, result: Result) -> None:
        self._under_way.discard(action.id)
        ended = result.value if isinstance(result.value, _Ended) else _Ended(problem=result.error)
        if ended.store is not None:
            self._changes += 1
            self._names, self._names_beside = ended.names, self._catalogue()
            self._tell(ended.store)
            self._changed()
        elif action.kind is not ActionKind.VERIFY:
            self._soon()
        kind = OutcomeKind.DONE
        if ended.problem is not None:
            kind = OutcomeKind.SKIPPED if isinstance(ended.problem, NeverStarted) else OutcomeKind.FAILED
        detail = ended.text if ended.problem is None else str(ended.problem)
        self._send(OutcomeReported(Outcome(action.id, kind, self._clock(), detail=detail)))

    def _looked(self, result: Result, changes: int) -> None:
        """What a look saw, unless it was sent with the names of before a change that was made meanwhile."""
        self._look_at = self._clock() + (LOOK_SECONDS if changes == self._changes else 0.0)
        self._hangs = isinstance(result.error, Overdue) and not isinstance(result.error, NeverStarted)
        if changes != self._changes:
            return
        if isinstance(result.value, StoreReading):
            self._tell(result.value)
        elif result.error is not None and not isinstance(result.error, NeverStarted):
            old = self._told or StoreReading()
            self._tell(replace(old, writable=False, read_at=self._clock(), error=str(result.error)))

    def _tell(self, store: StoreReading) -> None:
        now, old = self._clock(), self._told
        if old is None or _news(store) != _news(old) or now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self._send(StoreObserved(store))
        before = {entry.alias: entry for entry in old.entries} if old is not None else {}
        for entry in store.entries:
            if entry.returned and not (entry.alias in before and before[entry.alias].returned):
                log().warning(
                    "model.returned",
                    message=f"{entry.name} is there again although it is hidden: a client pulled, created or "
                    f"copied it; what was hidden is kept as {entry.alias}",
                    names=entry.name,
                    blob=entry.blob,
                )
        self._told = store

    def _seen(self) -> Seen:
        catalogue = self._catalogue()
        if catalogue is not self._names_beside:  # a catalogue that is younger than the list
            self._names = None
        return Seen(
            self._policy.ollama.models_folder, catalogue, self._names, self._servers, hangs=self._hangs
        )

    def _soon(self) -> None:
        if self._look_at is not None:
            self._look_at = self._clock()


def _news(store: StoreReading) -> object:
    """What is worth a message at once; of a download only that there is one."""
    return store.path, store.writable, store.readable, store.entries, bool(store.busy), store.error
