"""The soft cap: how many models may stay loaded together, enforced by unloading idle ones.

It falls at once when relief had to take models away, to what is left; it rises by one after each
quiet transition. The owner's ``soft_max`` bounds it from above.
"""

from __future__ import annotations

from ollama_guard.core.model import Activity, Level, Preference, Rung
from ollama_guard.core.policy import Policy
from ollama_guard.core.recovery import Step
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import State

# Rungs that show how many models fit together. An aborted load doesn't: it says that this one does not fit.
RELIEF = (Rung.UNLOAD_IDLE, Rung.DRAIN_BUSY, Rung.KILL_RUNNER)


def effective(policy: Policy, state: State) -> int | None:
    """The cap in force, at least 1; None = no bound."""
    position = state.durable.playbook
    narrow = 1 if position is not None and position.step is Step.SOFT_CAP else None
    return min(
        (max(1, cap) for cap in (policy.cap.soft_max, state.soft_cap, narrow) if cap is not None),
        default=None,
    )


def victims(scene: Scene) -> tuple[Runner, ...]:
    """Idle runners above the cap, least recently used first; ``omit`` counts but never goes."""
    cap = effective(scene.policy, scene.state)
    staying = [runner for runner in scene.runners if runner.activity is not Activity.STOPPING]
    if cap is None or len(staying) <= cap:
        return ()
    idle = [
        runner
        for runner in staying
        if runner.activity is Activity.IDLE
        and runner.rule.preference is not Preference.OMIT
        and scene.can_unload(runner)
    ]
    idle.sort(key=lambda runner: (runner.rule.preference is Preference.AVOID, runner.last_used_at))
    return tuple(idle[: len(staying) - cap])


def adjust(scene: Scene, rung: Rung, leaving: int) -> tuple[int | None, float | None]:
    """The next (soft cap, quiet since): lower after relief, one higher after each quiet transition."""
    state, now = scene.state, scene.now
    staying = sum(1 for runner in scene.runners if runner.activity is not Activity.STOPPING)
    if rung in RELIEF and leaving:
        left = max(1, staying - leaving)
        return (left if state.soft_cap is None else min(left, state.soft_cap)), None
    if state.soft_cap is None:
        return None, None
    if any(domain.level > Level.OK for domain in state.domains.values()):
        return state.soft_cap, None
    since = state.soft_cap_quiet_since_at
    if since is None:
        return state.soft_cap, now
    if now - since < scene.policy.transition_seconds:
        return state.soft_cap, since
    risen = state.soft_cap + 1
    known = max(len(scene.snapshot.catalogue), staying)
    return (None, None) if risen > known else (risen, now)
