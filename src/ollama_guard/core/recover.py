"""What the recovery calls for in one tick: a step of the playbook, its beginning, or a small change in quiet.

Here the owner's word, the budget (`runs`) and what may never be stopped are weighed; `playbook` steps on.
Without the owner's word the same is announced as "would have", once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ollama_guard.core import hardcap, hiding, lines, playbook, reopen, revive, runs
from ollama_guard.core.ladder import Draft
from ollama_guard.core.model import Action, Condition, Mode, Rung
from ollama_guard.core.recovery import Ending, Playbook, Position
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import has_word, lacks_word, named, why_never
from ollama_guard.core.state import Durable, State
from ollama_guard.core.targets import runtime_here
from ollama_guard.core.units import count_text

# What needs the owner's word is announced again after this long (seconds), a freeze with each new one.
ANNOUNCE_AGAIN_SECONDS = 6 * 3600.0
FREEZE, SPARED, HARD_CAP, RESTART = "freeze", "spared", "hard_cap", "restart"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the recovery calls for; ``minor`` gives way to whatever else there is to do."""

    durable: Durable
    draft: Draft | None = None
    minor: bool = False


def plan(scene: Scene, mode: Mode, *, blind: bool, busy: bool) -> Plan:
    """What to do now. ``busy``: the ladder acts in this tick, which a new run waits for."""
    durable = revive.reviewed(scene)
    scene = scene.remembering(durable)
    durable = reopen.adopted(scene)
    scene = scene.remembering(durable)
    durable = lines.reviewed(scene)
    scene = scene.remembering(durable)
    if durable.playbook is not None:
        turn = playbook.proceed(scene, word=_may_go_on(scene, durable.playbook, mode), blind=blind)
        durable = turn.durable
        if durable.playbook is not None and durable.playbook.name is Playbook.FREEZE:
            return Plan(durable, None if turn.action is None else _step(turn.action))
        scene = scene.remembering(durable)
    start = revive.to_start(scene)
    if start is not None:
        return Plan(durable, _step(start))
    if blind:
        return Plan(durable)
    if scene.state.symptoms.frozen and scene.policy.playbook.enabled:
        return _freeze(scene, mode, busy=busy or bool(scene.state.in_flight))
    if scene.state.symptoms.spared and _is_news(scene, SPARED):
        draft = Draft(Rung.HOLD, f"nothing is touched: {scene.state.symptoms.spared}", announce=SPARED)
        return Plan(durable, draft)
    return Plan(durable, _small(scene, mode), minor=True)


def _may_go_on(scene: Scene, position: Position, mode: Mode) -> bool:
    """Whether the owner's word still holds that a run began under; its label is not known in between."""
    if position.by_hand or position.name is not Playbook.FREEZE:
        return True
    runtime = named(scene, position.runtime)
    return (
        mode is Mode.ENFORCE
        and scene.policy.playbook.enabled
        and (runtime is None or has_word(scene, runtime))
    )


def _step(action: Action) -> Draft:
    """A step of a run that goes on, or a start of what it left down: the owner's word has been weighed."""
    return Draft(Rung.PLAYBOOK, action.reason, action.kind, prepared=(action,), must=True)


def _freeze(scene: Scene, mode: Mode, *, busy: bool) -> Plan:
    durable, frozen = scene.state.durable, scene.state.symptoms.frozen
    if busy:
        return Plan(durable)
    runtime = runtime_here(scene)
    never = why_never(scene, runtime) or runs.refusal(scene)
    if never or runtime is None:
        gave_up = runs.is_exhausted(scene)
        return Plan(durable, Draft(Rung.HOLD, f"Ollama is frozen: {frozen}; hold, {never}", gave_up=gave_up))
    begun = playbook.begin(scene, Playbook.FREEZE, frozen)
    turn = playbook.proceed(scene.remembering(begun), word=True, blind=False)
    if turn.action is None:
        return Plan(durable)
    if mode is Mode.ENFORCE and has_word(scene, runtime):
        return Plan(turn.durable, replace(_step(turn.action), must=False))
    hidden = begun.playbook.targets if begun.playbook is not None else ()
    what = f"constrain, stop and start {runtime.name}, hide {count_text(len(hidden), 'model')} that can't fit"
    word = "" if has_word(scene, runtime) else f"; {lacks_word(runtime)}"
    reason = f"Ollama is frozen: {frozen}: {what}{word}"
    return Plan(durable, _announced(scene, FREEZE, reason, turn.action))


def _small(scene: Scene, mode: Mode) -> Draft | None:
    """What is done in quiet, one at a time; what has only been announced stands in nobody's way."""
    return next((draft for draft in _wishes(scene, mode) if draft is not None), None)


def _wishes(scene: Scene, mode: Mode) -> Iterator[Draft | None]:
    """Hide, cap, lift, restart, bring back; None for what has been announced a while ago."""
    word = mode is Mode.ENFORCE and has_word(scene, runtime_here(scene))
    hide = hiding.to_hide(scene)
    if hide is not None:
        yield _allowed(scene, hide, f"hide:{hide.blob}", word=word)
    write = hardcap.to_write(scene)
    if write is not None:
        yield _allowed(scene, write, HARD_CAP, word=word)
    lift = reopen.to_release(scene) if mode is Mode.ENFORCE else None
    restart = reopen.to_restart(scene) if lift is None else None
    if restart is not None:
        yield _allowed(scene, restart, RESTART, word=word)
    action = lift or (hiding.to_restore(scene) if word else None)
    if action is not None:
        yield _done(action)


def _allowed(scene: Scene, action: Action, key: str, *, word: bool) -> Draft | None:
    if word:
        return _done(action)
    runtime = runtime_here(scene)
    lacks = "" if has_word(scene, runtime) or runtime is None else f"; {lacks_word(runtime)}"
    return _announced(scene, key, f"{action.reason}{lacks}", action)


def _done(action: Action) -> Draft:
    return Draft(action.rung, action.reason, action.kind, prepared=(action,))


def _announced(scene: Scene, key: str, reason: str, action: Action) -> Draft | None:
    if not _is_news(scene, key):
        return None
    return Draft(action.rung, reason, action.kind, prepared=(action,), announce=key)


def _is_news(scene: Scene, key: str) -> bool:
    at = scene.state.would_at.get(key)
    return at is None or scene.now - at >= ANNOUNCE_AGAIN_SECONDS


def still_told(state: State, now: float) -> dict[str, float]:
    """What was announced and is not to be announced again; what a freeze brought ends with it."""
    frozen = any(held.condition is Condition.FROZEN for held in state.conditions)
    suspected = state.symptoms.suspected_at is not None
    ended = {key for key, goes_on in ((FREEZE, frozen), (SPARED, suspected)) if not goes_on}
    return {
        key: at
        for key, at in state.would_at.items()
        if key not in ended and now - at < ANNOUNCE_AGAIN_SECONDS
    }


def stands(scene: Scene) -> str:
    """The state of the recovery in a word: idle, running, constrained, lifted (from the next start on)."""
    durable = scene.state.durable
    if durable.playbook is not None:
        return Ending.RUNNING.value
    if durable.constrained is not None:
        return "constrained"
    return "lifted" if lines.is_lifted(scene) else "idle"
