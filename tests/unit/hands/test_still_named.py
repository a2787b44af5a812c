"""Which names still mean the model that is to be hidden."""

from __future__ import annotations

import pytest

from ollama_guard.core.quarantine import Goal, Plan, plan_of
from ollama_guard.hands.still_named import Blobs, still_meant

BIG, SMALL = "sha256:" + "b" * 64, "sha256:" + "5" * 64
NAME, KEPT = ("registry.ollama.ai", "library", "big", "7b"), (
    "quarantine.registry.ollama.ai", "library", "big", "7b",
)  # fmt: skip


def plan() -> Plan:
    return plan_of(Goal.DELETE, ("Big:7b",), BIG)[0]


@pytest.mark.parametrize(
    ("blobs", "kept"),
    [
        ({NAME: BIG}, True),
        ({NAME: SMALL}, False),
        ({NAME: None}, False),  # pulled a moment ago, and not told of yet
        ({NAME: BIG, KEPT: SMALL}, True),
        ({NAME: SMALL, KEPT: BIG}, False),  # hidden before, and pulled again
        ({KEPT: BIG}, True),  # an earlier try moved it
        ({KEPT: SMALL}, False),  # what was hidden under this name is another model
        ({}, True),
    ],
)
def test_only_what_is_the_same_model_at_this_moment_is_moved(blobs: Blobs, *, kept: bool) -> None:
    left, others = still_meant(plan(), blobs)
    assert left.pairs == (plan().pairs if kept else ())
    assert others == (() if kept else ("Big:7b",))
