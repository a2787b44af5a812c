"""The ladder position: which tiers of the user's ladder may be used now, and the largest of them.

A tier is allowed when its load would go through by the judgement of `fit`, or when it is loaded. Where only
the work of other models is in its way, that has to last for soft's grace before it counts. At soft and worse
it must also leave memory above soft once what may be unloaded is gone; only the smallest that can be had is
spared that, so that somebody answers as long as anything can. A refusal holds at once. What memory has
refused comes back after quiet: when nothing has spoken against it for a whole transition, and the level is
ok.

While ``models_dont_load`` runs only the model that it keeps is allowed. What can't be told holds as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ollama_guard.core.model import HOST, Level, Mode
from ollama_guard.core.runners import IDLE_WINDOW_SECONDS
from ollama_guard.core.scene import Scene, mode_of
from ollama_guard.core.state import State
from ollama_guard.core.tierfit import Verdict, judged, twins
from ollama_guard.core.tiers import TierState
from ollama_guard.core.units import seconds_text

# Judged again after this long (seconds), and at once when the level, a runner or the ladder has changed: a
# tier costs as much as a runner's census, and ticks may come fifty times a second. Who asks is told half a
# second late at most.
JUDGE_SECONDS = 0.5
# How long a new guard gets to know the runners (seconds): an idle one is proven idle after two.
ACQUAINTED_SECONDS = IDLE_WINDOW_SECONDS + 0.5


def top(tiers: Sequence[TierState]) -> TierState | None:
    """The ladder position: the largest tier that is allowed; None where none is."""
    return next((held for held in reversed(tiers) if held.allowed), None)


def review(scene: Scene, before: State, *, stalled: bool) -> State:
    """The state with its ladder judged anew, if that is due; ``before`` is that of the last tick."""
    state = scene.state
    if not scene.policy.tiers:
        return _forgotten(state)
    if not (stalled or _is_due(scene, before)):
        return state
    known = {held.name: held for held in _remembered(scene, stalled=stalled)}
    verdicts = judged(scene)
    settled = [_settled(scene, verdict, known.get(verdict.tier.name)) for verdict in verdicts]
    held = _with_the_smallest(scene, verdicts, settled, known)
    for name, twin in twins(scene).items():
        same = f"; its model is that of tier {twin.name} ({twin.model}) too"
        held = tuple(replace(t, reason=t.reason + same) if t.name == name else t for t in held)
    refused = tuple(tier.name for tier in held if tier.waits)
    durable = state.durable if refused == state.durable.refused else replace(state.durable, refused=refused)
    return replace(state, tiers=held, tiers_judged_at=scene.now, durable=durable)


def _forgotten(state: State) -> State:
    if not (state.tiers or state.durable.refused):
        return state
    return replace(state, tiers=(), tiers_judged_at=None, durable=replace(state.durable, refused=()))


def _is_due(scene: Scene, before: State) -> bool:
    state, at = scene.state, scene.state.tiers_judged_at
    if at is None:
        return _can_begin(scene)
    return (
        scene.now - at >= JUDGE_SECONDS
        or state.level is not before.level
        or {(r.pid, r.start_ticks) for r in state.runners} != {(r.pid, r.start_ticks) for r in before.runners}
        or [(t.name, t.model) for t in state.tiers] != [(t.name, t.model) for t in scene.policy.tiers]
    )


def _can_begin(scene: Scene) -> bool:
    """Whether enough is known for a first judgement: who is loaded, and who of them is idle.

    Without it a guard that has just started would take what is loaded for memory that nobody can have.
    """
    if not scene.snapshot.runners or scene.now - (scene.state.started_at or 0.0) >= ACQUAINTED_SECONDS:
        return True
    read = all(reading.proven and reading.blob for reading in scene.snapshot.runners)
    return read and mode_of(scene.policy, scene.state.durable, scene.now) is not Mode.ENFORCE


def _remembered(scene: Scene, *, stalled: bool) -> list[TierState]:
    """What is known from before. After a stall, and to a new guard, each quiet begins anew."""
    state, now = scene.state, scene.now
    if state.tiers_judged_at is None:
        return [
            TierState(name, "", allowed=False, reason="", strained_at=now) for name in state.durable.refused
        ]
    if not stalled:
        return list(state.tiers)
    return [_anew(held, now) for held in state.tiers]


def _anew(held: TierState, now: float) -> TierState:
    """The same with every duration begun anew."""
    return replace(
        held,
        unfit_at=None if held.unfit_at is None else now,
        strained_at=None if held.strained_at is None else now,
        crowded_at=None if held.crowded_at is None else now,
        spared_at=None if held.spared_at is None else now,
        risen_at=None if held.risen_at is None else now,
    )


def _settled(scene: Scene, verdict: Verdict, known: TierState | None) -> TierState:
    """A tier's next state, but for what the smallest is spared."""
    tier, now, quiet = verdict.tier, scene.now, scene.policy.transition_seconds
    held = replace(known or TierState(tier.name, "", allowed=None, reason=""), model=tier.model)
    if verdict.serves is None:
        still = "" if held.allowed is None else f"; {_word(held.allowed)}, as before"
        return replace(_anew(held, now), reason=f"{verdict.reason}{still}")
    crowded = None
    if verdict.crowded:
        crowded = now if held.crowded_at is None else held.crowded_at
        if now - crowded >= scene.policy.thresholds_of(verdict.crowded).grace_seconds:
            verdict = replace(verdict, serves=False, reason=verdict.crowd, lasting=True)
    unfit = _since(held.unfit_at, now, quiet, again=not verdict.serves and verdict.lasting)
    strained = _since(held.strained_at, now, quiet, again=bool(verdict.strains))
    held = TierState(tier.name, tier.model, verdict.serves, verdict.reason, unfit, strained, crowded)
    if not verdict.serves:
        return held
    if verdict.strains:
        return replace(held, allowed=False, reason=verdict.strains)
    return _after_quiet(scene, held, tense=known is not None and known.allowed is False)


def _after_quiet(scene: Scene, held: TierState, *, tense: bool) -> TierState:
    """A tier that could be used: at once if nothing was against it; ``tense``: it was refused until now."""
    level, quiet = scene.state.level, scene.policy.transition_seconds
    if held.waits:
        left = quiet - (scene.now - max(at for at in (held.unfit_at, held.strained_at) if at is not None))
        rest = f"{seconds_text(left)} of {seconds_text(quiet)} left"
        reason = f"it could be used again, and waits until memory has been quiet for a while: {rest}"
        return replace(held, allowed=False, reason=reason)
    if tense and level > Level.OK:
        reason = f"it could be used again, and waits until the level is ok (now {level.word})"
        return replace(held, allowed=False, reason=reason)
    return held


def _word(allowed: bool) -> str:  # noqa: FBT001 - what is said of it
    return "allowed" if allowed else "not allowed"


def _since(at: float | None, now: float, quiet: float, *, again: bool) -> float | None:
    """When something last spoke against a tier: now, or what is remembered until its quiet is over."""
    if again:
        return now
    return at if at is not None and 0 <= now - at < quiet else None


def _with_the_smallest(
    scene: Scene, verdicts: Sequence[Verdict], held: Sequence[TierState], known: Mapping[str, TierState]
) -> tuple[TierState, ...]:
    """The ladder with the smallest tier that can be had, though memory is short: somebody has to answer."""
    if any(tier.allowed for tier in held):
        return tuple(held)
    able = [
        (verdict.later, place)
        for place, (verdict, tier) in enumerate(zip(verdicts, held, strict=True))
        if verdict.serves and (tier.unfit_at is None or verdict.loaded)
    ]
    if not able:
        return tuple(held)
    best, spared_at, risen_at = min(able)[1], scene.now, None
    for _, place in able:
        past = known.get(held[place].name, held[place])
        if past.spared_at is None:
            continue
        risen_at = past.risen_at if best == place else scene.now if best > place else None
        if _stays(scene, past, rises=best > place, falls=best < place):
            best, spared_at, risen_at = place, past.spared_at, past.risen_at
    reason = f"it is the smallest that can be had now; {held[best].reason}"
    first = replace(held[best], allowed=True, reason=reason, spared_at=spared_at, risen_at=risen_at)
    return tuple(first if place == best else tier for place, tier in enumerate(held))


def _stays(scene: Scene, spared: TierState, *, rises: bool, falls: bool) -> bool:
    """Whether the tier that is spared stays so though another would be the better choice.

    A model that works now and then could make room for a smaller one whenever it rests. So that the choice
    does not change each time, the smaller one keeps its place until that has lasted for soft's grace; and
    after that the larger one, which can be had, for a whole transition.
    """
    if rises:
        waited = scene.now - (spared.spared_at or 0.0)
        return waited < scene.policy.thresholds_of(HOST).grace_seconds
    since = spared.risen_at
    return falls and since is not None and scene.now - since < scene.policy.transition_seconds
