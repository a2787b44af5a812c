"""One tick's whole picture, and what the ladder asks of it: numbers, times, what is on its way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ollama_guard.core import pagecache, sane
from ollama_guard.core.model import (
    HOST,
    Action,
    ActionKind,
    Activity,
    DomainReading,
    Level,
    Mode,
    Preference,
    Rung,
    Snapshot,
)
from ollama_guard.core.policy import GIB, Policy, Protect, spelled
from ollama_guard.core.pressure import seconds_to
from ollama_guard.core.quarantined import Hidden
from ollama_guard.core.runners import Runner, census
from ollama_guard.core.state import DomainState, Durable, Rates, State

# Relief in flight is waited for this many times as long as it is expected to take, before the next
# rung: the priors are medians, and a busy machine's tail is about three times its median.
PATIENCE = 3.0
# A blob's measured unload time counts within these multiples of the prior, as `Rates` do.
MEASURED_BOUNDS = (0.2, 10.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """Policy, state (its domains and runners already of this snapshot), snapshot and runners."""

    policy: Policy
    state: State
    snapshot: Snapshot
    runners: tuple[Runner, ...]

    @classmethod
    def of(cls, policy: Policy, state: State, snapshot: Snapshot) -> Scene:
        """The scene of a snapshot of which ``state.runners`` are."""
        runners = census(policy, state, snapshot)
        return cls(policy, state, pagecache.counted(snapshot, runners), runners)

    @property
    def now(self) -> float:
        """Boottime seconds."""
        return self.snapshot.now

    def remembering(self, durable: Durable) -> Scene:
        """The same scene with another durable state."""
        return replace(self, state=replace(self.state, durable=durable))

    def readable(self) -> list[DomainReading]:
        """Domains with a capacity and an available reading, worst first."""
        readings = [d for d in self.snapshot.domains if d.available_bytes is not None and d.capacity_bytes]
        return sorted(readings, key=lambda d: (-self.domain(d.name).urgent, self.headroom(d, Level.HARD)))

    def domain(self, name: str) -> DomainState:
        """What is remembered of a domain."""
        return self.state.domains.get(name, DomainState())

    def threshold(self, reading: DomainReading, level: Level) -> int:
        """A level's threshold on this domain, in bytes."""
        return self.policy.thresholds_of(reading.name).bytes_of(level, reading.capacity_bytes or 0)

    def headroom(self, reading: DomainReading, level: Level) -> int:
        """Available minus a threshold, in bytes; negative when below."""
        return (reading.available_bytes or 0) - self.threshold(reading, level)

    def seconds_to_exhaustion(self, reading: DomainReading) -> float | None:
        """Seconds until nothing is available at this slope; None = not in sight."""
        return seconds_to(reading.available_bytes or 0, 0, self.domain(reading.name).slope_bytes_per_second)

    def seconds_to(self, reading: DomainReading, level: Level) -> float | None:
        """Seconds until a threshold is crossed at this slope; 0 if it is, None = not in sight."""
        slope = self.domain(reading.name).slope_bytes_per_second
        return seconds_to(reading.available_bytes or 0, self.threshold(reading, level), slope)

    @property
    def hidden_names(self) -> frozenset[str]:
        """The names (`spelled`) of hidden models, and those that they are kept as."""
        entries = self.snapshot.store.entries
        asked = {spelled(entry.name) for entry in entries if not entry.returned}
        return frozenset(
            asked | {spelled(entry.alias) for entry in entries if entry.how is not Hidden.DELETED}
        )

    def within(self, name: str) -> list[Runner]:
        """Runners whose memory counts in a domain."""
        return [runner for runner in self.runners if name in runner.reading.domains]

    def can_unload(self, runner: Runner) -> bool:
        """Whether the API can be asked: it answers, knows it by a name, and honoured the last request."""
        known = bool(runner.names) and not runner.is_orphan and self.is_meant(runner)
        return known and self.api_usable() and not self.unhonoured(runner.reading.blob)

    def is_meant(self, runner: Runner) -> bool:
        """Whether the API means this process by its model's names, which are all that it can be asked by.

        It is one server's. Where several run, the process of another could have the same weights: so only
        the one that has them, of those that the API lists.
        """
        if len(self.snapshot.servers) <= 1:
            return True
        blob = runner.reading.blob
        alike = sum(1 for other in self.runners if other.reading.blob == blob and not other.is_orphan)
        return alike == 1 and any(model.blob == blob for model in self.snapshot.api.loaded)

    def api_usable(self) -> bool:
        """Whether ``hands`` live and Ollama answered lately."""
        api, policy = self.snapshot.api, self.policy.ollama
        return (
            self.snapshot.hands_alive
            and api.answered_at is not None
            and self.now - heard_at(self.state, api.answered_at) <= policy.unresponsive_after_seconds
        )

    def unhonoured(self, blob: str | None) -> bool:
        """Whether an unload of this blob failed a moment ago."""
        return blob is not None and self.state.unhonoured.get(blob, 0.0) > self.now

    def in_flight(self, name: str) -> list[Action]:
        """Actions under way that will free memory in a domain.

        A killed process with threads is a zombie, and so listed no more, as soon as its first thread has
        ended; its memory was seen to come back up to 0.9 s after that. Until there is an outcome it is dying.
        """
        listed = {runner.key: runner.reading.domains for runner in self.runners}
        return [
            action
            for action in self.state.in_flight
            if action.key is not None and name in listed.get(action.key, (HOST, action.domain))
        ]

    def age(self, action: Action) -> float:
        """Seconds since an action was issued."""
        return self.now - self.state.issued_at.get(str(action.id), self.now)

    def overdue(self, action: Action) -> bool:
        """Whether an action has had its expected time several times over."""
        return self.age(action) > patience_seconds(self.policy, self.state.rates, action)

    def too_late(self, action: Action, reading: DomainReading) -> bool:
        """Whether an action is overdue, or memory will be at its end before it is done.

        One that has had its expected time is taken to need half of it again. A killed runner gives its
        memory back bit by bit, so it is trusted for twice its time before another has to die as well.
        """
        if self.overdue(action):
            return True
        expected = expected_seconds(self.policy, self.state.rates, action)
        if action.kind is ActionKind.KILL and self.age(action) < 2 * expected:
            return False
        at_its_end = 2 * (reading.available_bytes or 0) < self.threshold(reading, Level.CRITICAL)
        if action.kind is ActionKind.UNLOAD and at_its_end:
            return self.age(action) > self.policy.post_action_delay_seconds
        left = self.seconds_to_exhaustion(reading)
        return left is not None and max(expected - self.age(action), expected / 2) > left

    def coming_bytes(self, name: str, *, drains: bool) -> int:
        """What relief under way will still bring back to a domain; drains only where they may count.

        A reclaim never counts: nobody knows what it brings before it has.
        """
        return sum(
            action.expected_bytes
            for action in self.in_flight(name)
            if action.kind is not ActionKind.RECLAIM
            and (drains if action.rung is Rung.DRAIN_BUSY else not self.overdue(action))
        )

    def coming_in_time_bytes(self, reading: DomainReading) -> int:
        """As `coming_bytes` at critical: drains don't count, nor what comes after the end of memory."""
        return sum(
            action.expected_bytes
            for action in self.in_flight(reading.name)
            if action.rung not in (Rung.DRAIN_BUSY, Rung.RECLAIM) and not self.too_late(action, reading)
        )


def mode_of(policy: Policy, durable: Durable, now: float) -> Mode:
    """What the owner lets the guard do now."""
    if durable.pause_until_at is not None and durable.pause_until_at > now:
        return Mode.PAUSED
    return policy.ollama.mode


def heard_at(state: State, at: float) -> float:
    """A time from which silence is counted: never from before the guard itself slept (suspend, stall)."""
    return at if state.woke_at is None else max(at, state.woke_at)


def unload_seconds(policy: Policy, rates: Rates, count: int) -> float:
    """Expected seconds until an unload of ``count`` bytes is done."""
    return rates.unload * (policy.unload_prior_seconds + policy.unload_prior_seconds_per_gib * count / GIB)


def measured_unload_seconds(policy: Policy, runner: Runner) -> float | None:
    """How long unloads of this runner's blob took, within reason; None if none was measured."""
    measured = sane.duration(runner.row.unload_seconds) if runner.row is not None else None
    if measured is None:
        return None
    low, high = (share * unload_seconds(policy, Rates(), runner.memory_bytes) for share in MEASURED_BOUNDS)
    return min(max(measured, low), high)


def all_unloaded_seconds(policy: Policy, rates: Rates, runners: Sequence[Runner]) -> float:
    """Expected seconds until all of these are unloaded: Ollama ends one after the other (facts 1.3)."""
    measured = [measured_unload_seconds(policy, runner) for runner in runners]
    known = [seconds for seconds in measured if seconds is not None]
    if len(known) == len(measured):
        return sum(known)
    return unload_seconds(policy, rates, sum(runner.memory_bytes for runner in runners))


def kill_seconds(policy: Policy, rates: Rates, count: int) -> float:
    """Expected seconds until a killed process of ``count`` bytes has given them back."""
    return rates.kill * (policy.kill_prior_seconds + policy.kill_prior_seconds_per_gib * count / GIB)


def expected_seconds(policy: Policy, rates: Rates, action: Action) -> float:
    """How long an action should take."""
    if action.kind is ActionKind.KILL:
        return kill_seconds(policy, rates, action.expected_bytes)
    if action.measured_seconds is not None:
        return action.measured_seconds
    return unload_seconds(policy, rates, action.expected_bytes)


def patience_seconds(policy: Policy, rates: Rates, action: Action) -> float:
    """How long an action is waited for before the next rung."""
    return max(policy.post_action_delay_seconds, PATIENCE * expected_seconds(policy, rates, action))


def relief_seconds(
    policy: Policy, rates: Rates, runners: Iterable[Runner], capacity: int
) -> dict[Level, float]:
    """How long the relief that each level calls for would take: an unload, at critical a kill."""
    least = policy.min_reclaim_bytes(capacity)
    views = list(runners)
    idle = [all_unloaded_seconds(policy, rates, [r]) for r in views if r.activity is Activity.IDLE]
    mortal = [r.memory_bytes for r in views if killable(r)]
    unload = max(idle, default=0.0)
    kill = (
        kill_seconds(policy, rates, min((b for b in mortal if b >= least), default=max(mortal)))
        if mortal
        else 0.0
    )
    return {Level.SOFT: unload, Level.HARD: unload, Level.CRITICAL: kill}


def killable(runner: Runner) -> bool:
    """Whether the owner lets this runner be killed at ``critical``."""
    return not (runner.rule.preference is Preference.OMIT and runner.rule.protect is Protect.ALWAYS)
