"""Budgets: kills that freed nothing are bounded, with back-off; then hold.

At host ``critical`` a kill that can free bytes is never refused: the budget is against futility, not
against rescue.
"""

from __future__ import annotations

from ollama_guard.core.model import HOST, Action, ActionKind, DomainReading, Level, Outcome, OutcomeKind, Rung
from ollama_guard.core.scene import Scene
from ollama_guard.core.units import count_text, seconds_text

HOUR_SECONDS = 3600.0
# The pause after the first fruitless kill (seconds); it doubles with each further one in the hour.
FIRST_PAUSE_SECONDS = 2.0
# Fruitless kills remembered; at host critical they are not bounded, but what survives must be small.
KILLS_KEPT = 256


def refusal(scene: Scene, reading: DomainReading) -> str:
    """Why a kill is not allowed now, or "" if it is."""
    if reading.name == HOST and scene.domain(HOST).urgent >= Level.CRITICAL:
        return ""
    recent = _recent(scene)
    if not recent:
        return ""
    if is_exhausted(scene):
        return f"{count_text(len(recent), 'kill')} in the last hour freed nothing, which is the budget"
    pause = min(FIRST_PAUSE_SECONDS * 2 ** min(len(recent) - 1, 20), HOUR_SECONDS)
    left = pause - (scene.now - recent[-1])
    return f"the last kill freed nothing, the next may come in {seconds_text(left)}" if left > 0 else ""


def is_exhausted(scene: Scene) -> bool:
    """Whether as many kills as are allowed in an hour freed nothing."""
    return len(_recent(scene)) >= scene.policy.kills_per_hour


def _recent(scene: Scene) -> list[float]:
    return [at for at in scene.state.durable.fruitless_kills if scene.now - at < HOUR_SECONDS]


def after(durable_kills: tuple[float, ...], action: Action, outcome: Outcome) -> tuple[float, ...]:
    """The times of fruitless kills, brought up to this outcome."""
    kept = tuple(at for at in durable_kills if outcome.at - at < HOUR_SECONDS)
    of_a_load = action.rung is Rung.CAP  # there it is not memory that is wanted
    fruitless = (action.kind is ActionKind.KILL and not of_a_load) and (
        outcome.kind is OutcomeKind.FAILED or (outcome.kind is OutcomeKind.DONE and outcome.freed_bytes <= 0)
    )
    return (*kept, outcome.at)[-KILLS_KEPT:] if fruitless else kept
