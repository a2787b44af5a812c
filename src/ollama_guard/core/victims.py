"""Who gives memory back: candidates by harm, then the fewest that reach the target.

Worth is "least recently used" until a ledger of uses exists. Preference comes before all else:
``omit`` is not a candidate below ``critical``, and never with ``protect = "always"``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ollama_guard.core.model import Activity, Preference, Rung
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, killable


def idle(scene: Scene, name: str) -> list[Runner]:
    """Idle runners of a domain that the API can unload, the least worth first; never ``omit``."""
    found = [
        runner
        for runner in scene.within(name)
        if runner.activity is Activity.IDLE
        and runner.rule.preference is not Preference.OMIT
        and scene.can_unload(runner)
    ]
    return sorted(found, key=_worth)


def drainable(scene: Scene, name: str) -> list[Runner]:
    """Busy runners of a domain that may be asked to end after their answer; never ``omit``."""
    found = [
        runner
        for runner in scene.within(name)
        if runner.activity is Activity.BUSY
        and runner.rule.preference is not Preference.OMIT
        and scene.can_unload(runner)
    ]
    return sorted(found, key=_worth)


def fewest(candidates: Sequence[Runner], need_bytes: int) -> list[Runner]:
    """The fewest candidates that free ``need_bytes``, the least worth among equals; all if it can't be had.

    ``candidates`` are in order of worth. One that suffices alone is taken at once (the first such);
    else the largest, and again for the rest. Preference ``avoid`` is used only if the others fall short.
    """
    plain = [c for c in candidates if c.rule.preference is not Preference.AVOID]
    if sum(c.freeable_bytes for c in plain) >= need_bytes:
        return _fewest(plain, need_bytes)
    rest = [c for c in candidates if c.rule.preference is Preference.AVOID]
    return [*plain, *_fewest(rest, need_bytes - sum(c.freeable_bytes for c in plain))]


def _fewest(candidates: Sequence[Runner], need_bytes: int) -> list[Runner]:
    chosen: list[Runner] = []
    left = list(candidates)
    while left and need_bytes > 0:
        sufficing = [c for c in left if c.freeable_bytes >= need_bytes]
        victim = sufficing[0] if sufficing else max(left, key=lambda c: c.freeable_bytes)
        chosen.append(victim)
        left.remove(victim)
        need_bytes -= victim.freeable_bytes
    return chosen


def to_kill(scene: Scene, name: str, need_bytes: int) -> Runner | None:
    """The one runner whose death does the least harm and, within its class, reaches the target.

    Classes, from least harm: idle (or an unload that is overdue), loading, draining or busy, busy with
    ``avoid``, then ``omit`` in the same order. Only what frees bytes is a candidate.
    """
    candidates = [
        (harm, runner)
        for runner in scene.within(name)
        if killable(runner) and runner.freeable_bytes > 0 and (harm := _harm(scene, runner)) is not None
    ]
    if not candidates:
        return None
    least = min(harm for harm, _ in candidates)
    peers = sorted((runner for harm, runner in candidates if harm == least), key=_worth)
    sufficing = [runner for runner in peers if runner.freeable_bytes >= need_bytes]
    return sufficing[0] if sufficing else max(peers, key=lambda runner: runner.freeable_bytes)


def _harm(scene: Scene, runner: Runner) -> tuple[bool, int] | None:
    """(omit, class) of a runner for the kill rung; None while relief by it is still to be waited for."""
    omit = runner.rule.preference is Preference.OMIT
    match runner.activity:
        case Activity.IDLE:
            return (omit, 0)
        case Activity.LOADING:
            return (omit, 1)
        case Activity.BUSY:
            return (omit, 4 if runner.rule.preference is Preference.AVOID else 3)
        case Activity.STOPPING:
            actions = [action for action in scene.state.in_flight if action.key == runner.key]
            if any(action.rung is Rung.DRAIN_BUSY for action in actions):
                return (omit, 2)
            return (omit, 0) if any(scene.overdue(action) for action in actions) else None


def _worth(runner: Runner) -> tuple[bool, float, int]:
    """Least worth first: plain before ``avoid``, longest unused, then the one that frees most."""
    return (runner.rule.preference is Preference.AVOID, runner.last_used_at, -runner.freeable_bytes)
