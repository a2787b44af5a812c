"""The policy that the sentinel reads from its descriptor: any bytes at all give a policy or a ValueError."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ollama_guard.core.codec import to_plain
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.__main__ import read_policy
from unit.hands.odd_json import json_of, keys_of, one_replaced

POLICY: dict[str, Any] = to_plain(Policy())
ODD = json_of(keys_of(POLICY))
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(text: bytes) -> Policy:
    """What `read_policy` makes of a descriptor with this text."""
    fd = os.memfd_create("policy")
    os.write(fd, text)
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        return read_policy(fd)
    finally:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_whole_policy_is_read() -> None:
    assert read(json.dumps(POLICY).encode()) == Policy()


@PATIENT
@given(raw=st.binary(max_size=200), cut=st.integers(0, 6000))
@example(raw=b"9" * 5000, cut=0)
@example(raw=b" " * (1024**2 + 1) + b"{}", cut=0)
@example(raw=b"\\ud800", cut=0)
def test_cut_off_and_broken_anywhere_it_is_a_policy_or_a_value_error(raw: bytes, cut: int) -> None:
    whole = json.dumps(POLICY).encode()
    for text in (raw, whole[:cut] + raw, whole[:cut] + raw + whole[cut:]):
        with contextlib.suppress(ValueError):
            assert isinstance(read(text), Policy)


@PATIENT
@given(document=one_replaced(POLICY, ODD) | ODD)
def test_any_json_is_a_policy_of_the_declared_types_or_a_value_error(document: Any) -> None:
    with contextlib.suppress(ValueError):
        policy = read(json.dumps(document).encode())
        assert read(json.dumps(to_plain(policy), allow_nan=False).encode()) == policy
