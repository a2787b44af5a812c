"""Levels of one domain, told with a stepped clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ollama_guard.core.model import CONTAINER, HOST, DomainReading, Level
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.pressure import absent, observe, seconds_to, slope_of
from ollama_guard.core.state import DomainState

SLOW = {Level.SOFT: 0.0, Level.HARD: 0.0, Level.CRITICAL: 0.0}


@dataclass
class Domain:
    """A 4 GiB host (soft below 819 MiB, hard 409, critical 204) under observation."""

    now: float = 100.0
    state: DomainState | None = None
    relief: dict[Level, float] = field(default_factory=lambda: dict(SLOW))

    def see(self, available_mib: float | None, after: float = 1.0) -> DomainState:
        """One reading, ``after`` seconds later."""
        self.now += after
        available = None if available_mib is None else int(available_mib * MIB)
        reading = DomainReading(HOST, 4 * GIB, available, "" if available is not None else "EIO")
        self.state = observe(Policy(), self.state, reading, self.now, self.relief)
        return self.state

    def hold(self, available_mib: float, seconds: float) -> DomainState:
        """The same reading each second for a while."""
        for _ in range(int(seconds)):
            state = self.see(available_mib)
        return state


def test_soft_waits_for_its_grace() -> None:
    domain = Domain()
    domain.see(2000)
    assert domain.hold(700, 10).urgent is Level.OK
    assert domain.see(700).urgent is Level.SOFT


def test_a_recovery_within_the_grace_starts_it_anew() -> None:
    domain = Domain()
    domain.hold(700, 9)
    domain.see(900)
    assert domain.hold(700, 9).urgent is Level.OK


def test_soft_counts_at_once_when_hard_would_come_before_its_grace_is_over() -> None:
    domain = Domain()
    for tick in range(6):
        state = domain.see(830 - 10 * tick, after=0.1)
    assert state.raw is Level.SOFT
    assert state.urgent is Level.SOFT


@pytest.mark.parametrize(("available", "level"), [(400, Level.HARD), (200, Level.CRITICAL)])
def test_hard_and_critical_count_at_once(available: int, level: Level) -> None:
    state = Domain().see(available)
    assert (state.urgent, state.level) == (level, level)


def test_a_level_falls_only_after_a_whole_transition_and_then_to_the_worst_seen_in_it() -> None:
    domain = Domain()
    domain.see(200)
    domain.hold(2000, 30)
    domain.see(400)
    assert domain.hold(2000, 29).level is Level.CRITICAL
    assert domain.see(2000).level is Level.HARD
    assert domain.hold(2000, 60).level is Level.HARD
    assert domain.see(2000).level is Level.OK


def test_one_second_at_the_level_begins_the_transition_anew() -> None:
    domain = Domain()
    domain.see(200)
    domain.hold(2000, 59)
    domain.see(200)
    assert domain.hold(2000, 60).level is Level.CRITICAL


def test_a_forecast_counts_a_threshold_as_crossed_when_relief_takes_longer_than_is_left() -> None:
    domain = Domain(relief={Level.SOFT: 0.7, Level.HARD: 0.7, Level.CRITICAL: 0.2})
    for tick in range(8):
        state = domain.see(1430 - 50 * tick, after=0.1)
    assert state.raw is Level.OK
    assert state.slope_bytes_per_second == pytest.approx(-500 * MIB)
    assert state.urgent is Level.SOFT
    domain.relief = dict.fromkeys(domain.relief, 0.4)
    assert domain.see(1030, after=0.1).urgent is Level.OK


def test_a_slow_fall_is_not_forecast_from() -> None:
    domain = Domain(relief={Level.SOFT: 1e6, Level.HARD: 1e6, Level.CRITICAL: 1e6})
    for tick in range(20):
        state = domain.see(2000 - 0.05 * tick, after=0.1)
    assert state.urgent is Level.OK


@pytest.mark.parametrize("odd", range(12))
@pytest.mark.parametrize("value", [0, 100_000])
def test_one_odd_sample_never_makes_memory_fall(odd: int, value: int) -> None:
    """Wherever it stands, the newest one included."""
    samples = [(0.1 * n, 2000 * MIB) for n in range(12)]
    samples[odd] = (0.1 * odd, value * MIB)
    for known in range(2, 13):
        slope = slope_of(tuple(samples[:known]), samples[known - 1][0])
        assert slope is None or slope >= 0


def test_a_real_fall_is_told_at_the_second_sample_of_it() -> None:
    samples = (*((0.1 * n, 2000 * MIB) for n in range(6)), (0.6, 1850 * MIB), (0.7, 1700 * MIB))
    slope = slope_of(samples, 0.7)
    assert slope is not None
    assert slope < -250 * MIB


def test_the_fastest_ticks_make_history_too() -> None:
    """At 20 ms a tick the slope must be known as at any other pace."""
    domain = Domain()
    for tick in range(60):
        state = domain.see(4000 - 30 * tick, after=0.0199)
    assert state.slope_bytes_per_second == pytest.approx(-30 * MIB / 0.0199, rel=0.05)
    assert len(state.samples) <= 60


def test_an_unreadable_reading_keeps_the_level_and_calls_nothing_urgent() -> None:
    domain = Domain()
    domain.see(200)
    state = domain.see(None)
    assert (state.level, state.urgent, state.slope_bytes_per_second) == (Level.CRITICAL, Level.OK, None)


def test_a_domain_that_is_gone_fades_over_a_transition() -> None:
    domain = Domain()
    state = domain.see(200)
    state = absent(Policy(), state, domain.now)
    assert absent(Policy(), state, domain.now + 59).level is Level.CRITICAL
    assert absent(Policy(), state, domain.now + 60).level is Level.OK


@pytest.mark.parametrize(
    ("capacity", "host", "container"),
    [
        (512 * MIB, (256, 128, 64), (256, 128, 64)),
        (4 * GIB, (819, 409, 204), (614, 327, 163)),
        (15 * GIB, (3072, 1536, 768), (2048, 1024, 512)),
        (64 * GIB, (4096, 2048, 1024), (2048, 1024, 512)),
    ],
)
def test_default_thresholds_on_hosts_of_all_sizes(
    capacity: int, host: tuple[int, ...], container: tuple[int, ...]
) -> None:
    """In MiB for soft, hard, critical: shares with floors and ceilings, never more than the largest share."""
    policy, levels = Policy(), (Level.SOFT, Level.HARD, Level.CRITICAL)
    for name, expected in ((HOST, host), (CONTAINER, container)):
        found = [policy.thresholds_of(name).bytes_of(level, capacity) // MIB for level in levels]
        assert tuple(found) == expected
    assert policy.min_reclaim_bytes(capacity) == max(128 * MIB, int(0.03 * capacity))


def test_seconds_to_a_threshold() -> None:
    assert seconds_to(100, 200, None) == 0.0
    assert seconds_to(200 * MIB, 0, None) is None
    assert seconds_to(200 * MIB, 0, -100 * MIB) == pytest.approx(2.0)
