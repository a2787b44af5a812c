"""Recorded incidents, decided again: each file of ``tests/incidents`` is one test.

What must stay is the substance: the levels, the rungs, and whose model is acted on; sentences may change.
Where a change of the brain is meant to decide otherwise, ``--accept-incidents`` writes the new decisions
into the files, so that their difference can be read before it is committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.core.model import ActionKind, Level, Rung
from ollama_guard.core.replay import Comparison, Replay
from ollama_guard.core.scribe import Scribe
from ollama_guard.core.trace import Adopted, Ended, Glanced, Header, Look, Reader

INCIDENTS = sorted((Path(__file__).parents[1] / "incidents").glob("*.jsonl"))


@pytest.mark.parametrize("path", INCIDENTS, ids=lambda path: path.stem)
def test_an_incident_is_decided_as_it_was(path: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("accept_incidents"):
        path.write_text("".join(f"{line}\n" for line in decided_anew(path)))
    seen = Comparison()
    count = 0
    for moment in seen.read(path.name, path.read_bytes().splitlines(keepends=True)):
        count += 1
        assert moment.alike, f"{path.name}:{moment.line}: {moment.recorded} but now {moment.replayed}"
    assert count
    assert not seen.cut_off


def decided_anew(path: Path) -> Iterator[str]:
    """The lines of a trace with the decisions that are made now."""
    reader, replay, scribe = Reader(), Replay(), Scribe()
    for entry in reader.read(path.read_bytes().splitlines(keepends=True)):
        moment = replay.feed(entry)
        match entry:
            case Header():
                yield scribe.header(entry)
            case Look(snapshot, _, again):
                assert moment is not None
                yield scribe.look(snapshot, moment.replayed, again=again)
            case Ended(outcome):
                yield scribe.ended(outcome)
            case Glanced(at, available_bytes):
                yield scribe.glanced(at, available_bytes)
            case Adopted(policy):
                yield scribe.adopted(policy)


def test_the_incident_of_the_hog_holds_what_it_is_kept_for() -> None:
    """An unload, a kill with its second look, a ghost that is cleared, and an unload that is not honoured."""
    (path,) = (path for path in INCIDENTS if path.stem == "two-busy-one-idle-and-a-hog")
    lines = path.read_bytes().splitlines(keepends=True)
    looks = [entry for entry in Reader().read(lines) if isinstance(entry, Look)]
    assert {look.decision.rung for look in looks} >= {Rung.UNLOAD_IDLE, Rung.HOLD, Rung.KILL_RUNNER}
    assert {look.decision.level for look in looks} == set(Level)
    assert any(look.again for look in looks)


def test_decisions_that_are_accepted_are_the_ones_that_are_made(tmp_path: Path) -> None:
    """A trace that tells of other decisions gets the right ones back, and nothing else changes."""
    (incident,) = (path for path in INCIDENTS if path.stem == "two-busy-one-idle-and-a-hog")
    other = tmp_path / "other.jsonl"
    other.write_text(incident.read_text().replace('"kill_runner"', '"hold"'))
    moments = Comparison().read("other", other.read_bytes().splitlines(keepends=True))
    assert not all(moment.alike for moment in moments)
    lines = [f"{line}\n".encode() for line in decided_anew(other)]
    assert all(moment.same for moment in Comparison().read("accepted", lines))
    assert len(lines) == len(incident.read_text().splitlines())


def test_the_incident_of_the_freeze_holds_what_it_is_kept_for() -> None:
    """Loads aborted at birth, the blob condemned, a whole recovery, and the model hidden by Ollama's API."""
    (path,) = (path for path in INCIDENTS if path.stem == "frozen-and-a-model-that-can-not-fit")
    lines = path.read_bytes().splitlines(keepends=True)
    looks = [entry for entry in Reader().read(lines) if isinstance(entry, Look)]
    assert {look.decision.rung for look in looks} >= {Rung.ABORT_LOAD, Rung.PLAYBOOK}
    kinds = {action.kind for look in looks for action in look.decision.actions}
    assert kinds >= {ActionKind.CONSTRAIN, ActionKind.STOP, ActionKind.QUARANTINE, ActionKind.START}
    assert "condemned" in " ".join(look.decision.reason for look in looks)
