"""The policy's own arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.model import CONTAINER, HOST, Level, Preference
from ollama_guard.core.policy import (
    CONTAINER_THRESHOLDS,
    GIB,
    HOST_THRESHOLDS,
    LARGEST_SHARE,
    MIB,
    ModelRule,
    Policy,
    Protect,
    Threshold,
    Thresholds,
)

SHORT = (Level.SOFT, Level.HARD, Level.CRITICAL)


def test_a_threshold_is_a_share_between_its_floor_and_its_ceiling() -> None:
    threshold = Threshold(0.20, 600 * MIB, 4 * GIB)
    assert threshold.bytes_of(1 * GIB) == 600 * MIB
    assert threshold.bytes_of(10 * GIB) == 2 * GIB
    assert threshold.bytes_of(64 * GIB) == 4 * GIB


def test_a_fixed_size_is_the_same_on_every_machine() -> None:
    assert {Threshold(0.0, GIB, GIB).bytes_of(n * GIB) for n in (1, 4, 500)} == {GIB}


@pytest.mark.parametrize("thresholds", [HOST_THRESHOLDS, CONTAINER_THRESHOLDS])
@given(capacity=st.integers(64 * MIB, 2**50))
def test_the_defaults_are_in_order_on_every_machine_and_never_eat_a_small_one(
    thresholds: Thresholds, capacity: int
) -> None:
    soft, hard, critical = (thresholds.bytes_of(level, capacity) for level in SHORT)
    assert soft > hard > critical > 0
    for level in SHORT:
        assert thresholds.bytes_of(level, capacity) <= LARGEST_SHARE[level] * capacity


def test_the_level_ok_has_no_threshold() -> None:
    with pytest.raises(ValueError, match="ok has no threshold"):
        HOST_THRESHOLDS.bytes_of(Level.OK, GIB)


def test_the_host_has_its_own_thresholds_and_every_other_domain_those_of_containers() -> None:
    policy = Policy()
    assert policy.thresholds_of(HOST) is policy.host
    assert policy.thresholds_of(CONTAINER) is policy.container


def test_relief_aims_at_a_share_but_never_at_less_than_its_floor() -> None:
    assert Policy().min_reclaim_bytes(1 * GIB) == 128 * MIB
    assert Policy().min_reclaim_bytes(100 * GIB) == 3 * GIB


def test_a_blob_has_the_most_protective_rule_of_any_of_its_names() -> None:
    policy = Policy(
        models={
            "Small": ModelRule(Preference.AVOID),
            "copy:v1": ModelRule(Preference.NONE, Protect.ALWAYS),
            "other": ModelRule(Preference.OMIT),
        }
    )
    assert policy.rule_of(("small:latest", "copy:v1")) == ModelRule(Preference.AVOID, Protect.ALWAYS)
    assert policy.rule_of(("unknown:latest",)) == ModelRule()
    assert policy.rule_of(()) == ModelRule()
