"""Who gives memory back: candidates by harm, then the fewest that reach the target.

Worth is how often a model is asked for x how long its load takes / what it frees, once the ledger has been
kept for a week; before that the longest unused is worth least. Preference comes before all else:
``omit`` is not a candidate below ``critical``, and never with ``protect = "always"``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ollama_guard.core.model import (
    Action,
    ActionKind,
    Activity,
    DomainReading,
    OutcomeKind,
    Preference,
    Rung,
)
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, killable
from ollama_guard.core.units import rate_text, seconds_text

# The pause before the same runner is shot at again (seconds): after the first kill of it that failed, and
# after the third that was skipped (the looks did not agree: that is no reason to wait at first). Each
# further one doubles it, up to the longest.
FAILED_PAUSE_SECONDS = 2.0
SKIPPED_PAUSE_SECONDS = 0.2
SKIPS_FORGIVEN = 3
LONGEST_PAUSE_SECONDS = 60.0


def idle(scene: Scene, name: str) -> list[Runner]:
    """Idle runners of a domain that the API can unload, the least worth first; never ``omit``."""
    return _unloadable(scene, name, Activity.IDLE)


def drainable(scene: Scene, name: str) -> list[Runner]:
    """Busy runners of a domain that may be asked to end after their answer; never ``omit``."""
    return _unloadable(scene, name, Activity.BUSY)


def _unloadable(scene: Scene, name: str, activity: Activity) -> list[Runner]:
    found = [
        runner
        for runner in scene.within(name)
        if runner.activity is activity
        and runner.rule.preference is not Preference.OMIT
        and runner.memory_bytes > 0
        and scene.can_unload(runner)
    ]
    return sorted(found, key=_worth)


def fewest(candidates: Sequence[Runner], need_bytes: int) -> list[Runner]:
    """The fewest candidates that free ``need_bytes``, the least worth among equals; all if it can't be had.

    ``candidates`` are in order of worth. One that suffices alone is taken at once (the first such);
    else the largest, and again for the rest. Preference ``avoid`` is used only if the others fall short.
    """
    plain = [c for c in candidates if c.rule.preference is not Preference.AVOID]
    if sum(c.memory_bytes for c in plain) >= need_bytes:
        return _fewest(plain, need_bytes)
    rest = [c for c in candidates if c.rule.preference is Preference.AVOID]
    return [*plain, *_fewest(rest, need_bytes - sum(c.memory_bytes for c in plain))]


def _fewest(candidates: Sequence[Runner], need_bytes: int) -> list[Runner]:
    chosen: list[Runner] = []
    left = list(candidates)
    while left and need_bytes > 0:
        sufficing = [c for c in left if c.memory_bytes >= need_bytes]
        victim = sufficing[0] if sufficing else max(left, key=lambda c: c.memory_bytes)
        chosen.append(victim)
        left.remove(victim)
        need_bytes -= victim.memory_bytes
    return chosen


def to_kill(scene: Scene, reading: DomainReading, need_bytes: int, least_bytes: int) -> Runner | None:
    """The one runner to die next, so that the target is reached with the least harm.

    Classes, from least harm: idle (or an unload that comes too late), loading, draining, busy, busy with
    ``avoid``. The victim is of the mildest class with which, together with the milder ones,
    ``least_bytes`` (which end the emergency) can be reached: one of it that brings ``need_bytes`` (the
    target) alone, else what frees most, the milder classes first. So a small idle one doesn't die, and
    cost time, where a busy one has to die all the same.
    ``omit`` comes only when nothing else is left. Only what frees bytes is a candidate.
    """
    candidates = [
        (harm, runner)
        for runner in scene.within(reading.name)
        if killable(runner)
        and runner.freeable_bytes > 0
        and not mercy_seconds(scene, runner)
        and (harm := _harm(scene, reading, runner)) is not None
    ]
    candidates = [c for c in candidates if not _omitted(c[1])] or candidates
    reached = 0
    for harm in sorted({harm for harm, _ in candidates}):
        peers = [runner for their, runner in candidates if their == harm]
        reached += sum(runner.memory_bytes for runner in peers)
        alone = [runner for runner in peers if runner.memory_bytes >= need_bytes]
        if alone:
            return min(alone, key=_worth)
        if reached >= least_bytes:
            break
    return min(candidates, key=lambda c: (c[0], -c[1].memory_bytes, _worth(c[1])))[1] if candidates else None


def mercy_seconds(scene: Scene, runner: Runner) -> float:
    """How long this runner is not to be shot at again, after kills of it that did not come to anything.

    One that stays after SIGKILL hangs in the kernel, one that may not be signalled stays so: another
    victim must have its turn, and nothing is gained by a shot each tick.
    """
    ends = [outcome for action, outcome in scene.state.finished if _was_shot(action, runner)]
    failed = sum(1 for outcome in ends if outcome.kind is OutcomeKind.FAILED)
    skipped = sum(1 for outcome in ends if outcome.kind is OutcomeKind.SKIPPED)
    pauses = [FAILED_PAUSE_SECONDS * 2.0 ** (failed - 1)] if failed else []
    if skipped >= SKIPS_FORGIVEN:
        pauses.append(SKIPPED_PAUSE_SECONDS * 2.0 ** (skipped - SKIPS_FORGIVEN))
    if not pauses:
        return 0.0
    return max(0.0, min(max(pauses), LONGEST_PAUSE_SECONDS) - (scene.now - ends[-1].at))


def _was_shot(action: Action, runner: Runner) -> bool:
    return action.kind is ActionKind.KILL and action.key == runner.key


def _omitted(runner: Runner) -> bool:
    return runner.rule.preference is Preference.OMIT


def _harm(scene: Scene, reading: DomainReading, runner: Runner) -> int | None:
    """The class of a runner for the kill rung; None while it is dying or its unload will be in time."""
    match runner.activity:
        case Activity.IDLE:
            return 0
        case Activity.LOADING:
            return 1
        case Activity.BUSY:
            return 4 if runner.rule.preference is Preference.AVOID else 3
        case Activity.STOPPING:
            actions = [action for action in scene.state.in_flight if action.key == runner.key]
            if any(action.kind is ActionKind.KILL for action in actions):
                return None
            if any(action.rung is Rung.DRAIN_BUSY for action in actions):
                return 2
            return 0 if any(scene.too_late(action, reading) for action in actions) else None


def _worth(runner: Runner) -> tuple[bool, float, float, int]:
    """Least worth first: plain before ``avoid``, `Runner.worth`, longest unused, the one that frees most.

    Before the ledger has a week, all have the same worth.
    """
    avoid = runner.rule.preference is Preference.AVOID
    return (avoid, runner.worth, runner.last_used_at, -runner.freeable_bytes)


def worth_text(runner: Runner) -> str:
    """``, asked for 3 times a day, 12 s to load``; "" while that does not count yet."""
    if runner.asked_per_day is None:
        return ""
    return f", asked for {rate_text(runner.asked_per_day)}, {seconds_text(runner.load_seconds)} to load"


def order_text(scene: Scene, name: str, chosen: int) -> str:
    """By what the chosen idle ones were chosen, where others could have been."""
    others = idle(scene, name)
    if len(others) <= chosen:
        return ""
    return "; the longest unused first" if others[0].asked_per_day is None else "; the least worth first"
