"""The record of the playbook's runs: how each ended, and whether a further one may begin by itself.

A run that has stopped nothing did no harm, so it is not held against the budget: Docker may have been away
just then. What counts against it is the pause, which doubles with each such run of the hour.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core.policy import PlaybookPolicy
from ollama_guard.core.recovery import Ending, Playbook, Run
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable
from ollama_guard.core.units import count_text, seconds_text

HOUR_SECONDS = 3600.0
# With the longest pauses it takes more than an hour to fill the list with runs that stopped nothing, so that
# those which count are not pushed out of it.
RUNS_KEPT = 8
# Characters of each text about a run that are kept, since the state map holds 64 KiB.
TEXT_KEPT = 400
# The pause after a run that stopped nothing (seconds): a Docker that is restarted is back within that.
UNHARMED_PAUSE_SECONDS = 15.0


def with_new(durable: Durable, run: Run) -> tuple[Run, ...]:
    """The record with one more run at its end."""
    return (*durable.runs, run)[-RUNS_KEPT:]


def over(durable: Durable, now: float, ending: Ending, text: str, *, unharmed: bool = False) -> Durable:
    """The durable state without the run that went on, which is written down as ended so."""
    if durable.playbook is None:
        return durable
    ended = tuple(
        replace(run, ending=ending, ended_at=now, text=text[:TEXT_KEPT], unharmed=unharmed)
        if run.ending is Ending.RUNNING
        else run
        for run in durable.runs
    )
    return replace(durable, playbook=None, runs=ended)


def refusal(scene: Scene) -> str:
    """Why no further run may begin by itself now, or "" if one may."""
    if is_exhausted(scene):
        return (
            f"{count_text(len(harmed(scene.state.durable, scene.now)), 'run')} of the playbook in the last "
            "hour did not help for good, which is the budget: somebody has to look"
        )
    runs = by_itself(scene.state.durable, scene.now)
    if not runs:
        return ""
    last = runs[-1]
    pause = _pause_seconds(scene.policy.playbook, runs)
    left = pause - (scene.now - (last.started_at if last.ended_at is None else last.ended_at))
    return f"the last run has just ended, the next may begin in {seconds_text(left)}" if left > 0 else ""


def is_exhausted(scene: Scene) -> bool:
    """Whether as many runs as are allowed in an hour did not help for good."""
    return len(harmed(scene.state.durable, scene.now)) >= scene.policy.playbook.runs_per_hour


def by_itself(durable: Durable, now: float) -> list[Run]:
    """Freezes of the last hour that a run began for by itself."""
    return [
        run
        for run in durable.runs
        if run.name is Playbook.FREEZE and not run.by_hand and now - run.started_at < HOUR_SECONDS
    ]


def harmed(durable: Durable, now: float) -> list[Run]:
    """Those of them that stopped Ollama, or may have."""
    return [run for run in by_itself(durable, now) if not run.unharmed]


def _pause_seconds(policy: PlaybookPolicy, runs: list[Run]) -> float:
    """The pause after the last of these: a server is young for two minutes, then doubling."""
    unharmed = runs[-1].unharmed
    alike = sum(1 for run in runs if run.unharmed is unharmed)
    first = min(UNHARMED_PAUSE_SECONDS, policy.young_seconds) if unharmed else policy.young_seconds
    return first * 2.0 ** (min(alike, 10) - 1)
