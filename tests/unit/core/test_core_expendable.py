"""Runners die before anybody else, unless the owner's word spares them."""

import pytest

from ollama_guard.core.expendable import expendable
from ollama_guard.core.model import CatalogueEntry, Mode, RunnerReading, Snapshot
from ollama_guard.core.policy import ModelRule, OllamaPolicy, Policy, Protect
from ollama_guard.core.state import Durable

BLOB, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CATALOGUE = (CatalogueEntry(BLOB, ("dear:latest",), 1), CatalogueEntry(OTHER, ("cheap:latest",), 1))
SPARING = Policy(models={"dear": ModelRule(protect=Protect.ALWAYS)})


def runner(pid: int, blob: str | None = BLOB, *, proven: bool = True) -> RunnerReading:
    return RunnerReading(pid, 1, 0.0, 50, proven=proven, proof="", blob=blob)


def pids(
    policy: Policy, *runners: RunnerReading, durable: Durable | None = None, known: bool = True
) -> list[int]:
    snapshot = Snapshot(10.0, 0.0, runners=runners, catalogue=CATALOGUE if known else ())
    return [reading.pid for reading in expendable(policy, durable or Durable(), snapshot)]


def test_every_proven_runner_is_and_no_other_process() -> None:
    assert pids(Policy(), runner(1), runner(2, None), runner(3, proven=False)) == [1, 2]


@pytest.mark.parametrize(
    ("policy", "durable"),
    [
        (Policy(runners_die_first=False), Durable()),
        (Policy(ollama=OllamaPolicy(mode=Mode.OBSERVE)), Durable()),
        (Policy(), Durable(pause_until_at=11.0)),
    ],
    ids=["off", "observe", "paused"],
)
def test_nobody_is_where_the_owner_does_not_want_it(policy: Policy, durable: Durable) -> None:
    assert pids(policy, runner(1), durable=durable) == []


def test_what_is_protected_always_is_not_and_the_others_are() -> None:
    assert pids(SPARING, runner(1, BLOB), runner(2, OTHER)) == [2]


def test_while_it_is_not_known_which_is_protected_nobody_is() -> None:
    assert pids(SPARING, runner(1, BLOB), runner(2, OTHER), known=False) == []
