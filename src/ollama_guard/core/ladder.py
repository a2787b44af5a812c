"""The ladder: the least harm that suffices in time, as a draft that `decide` turns into actions.

Order: a condemned blob at birth; a load that can't fit; relief of the shortest domain (unload idle,
reclaim page cache, drain busy, kill one); a ghost entry; the cap; nothing. One draft a tick, one kill at a
time.
"""

from __future__ import annotations

from dataclasses import dataclass

from ollama_guard.core import budgets, condemned, loads, narrow, orphans, reclaim, victims
from ollama_guard.core.model import (
    HOST,
    Action,
    ActionKind,
    Activity,
    DomainReading,
    Level,
    LoadedModel,
    Rung,
)
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, all_unloaded_seconds, kill_seconds, killable
from ollama_guard.core.units import bytes_text, seconds_text


@dataclass(frozen=True, slots=True)
class Draft:
    """A rung, its targets, and one sentence with numbers; ``hold`` and ``none`` have no targets.

    ``prepared`` are actions that are not about a runner, complete but for their id. ``announce`` is the key
    of what is only told, once; ``must`` is done in any mode (a run that has stopped Ollama starts it again).
    ``gave_up`` as in `Decision`.
    """

    rung: Rung
    reason: str
    kind: ActionKind = ActionKind.UNLOAD
    targets: tuple[Runner, ...] = ()
    domain: str = ""
    ghost: LoadedModel | None = None
    prepared: tuple[Action, ...] = ()
    announce: str = ""
    must: bool = False
    gave_up: bool = False


NOTHING = Draft(Rung.NONE, "nothing to do")


def choose(scene: Scene) -> Draft:
    """What the present calls for, apart from the owner's word and blindness, which `decide` weighs."""
    doomed = condemned.at_birth(scene)
    if doomed:
        names = ", ".join(runner.title for runner in doomed)
        reason = f"{names} {'is' if len(doomed) == 1 else 'are'} condemned: killed at birth"
        return Draft(Rung.ABORT_LOAD, reason, ActionKind.KILL, tuple(doomed), "host")
    orphan = orphans.find(scene)
    if orphan is not None:
        idle = seconds_text(orphan.idle_seconds)
        gone = f"the server of {orphan.title} is gone, so nobody can ask it, and it has been idle for {idle}"
        reason = f"{gone}: kill it, it holds {bytes_text(orphan.memory_bytes)}"
        return Draft(Rung.KILL_RUNNER, reason, ActionKind.KILL, (orphan,), (*orphan.reading.domains, HOST)[0])
    verdict = loads.judge(scene)
    larger = narrow.at_birth(scene)
    if larger and (verdict is None or verdict.rung is not Rung.ABORT_LOAD):
        names = ", ".join(runner.title for runner in larger)
        reason = f"until memory is back only the smallest model is loaded: abort the load of {names}"
        return Draft(Rung.CAP, reason, ActionKind.KILL, tuple(larger), "host")
    if verdict is not None:
        return Draft(verdict.rung, verdict.reason, verdict.kind, verdict.targets, verdict.domain)
    held: Draft | None = None
    for reading in scene.readable():
        if scene.domain(reading.name).urgent > Level.OK:
            draft = _relieve(scene, reading)
            if draft.rung is not Rung.HOLD:
                return draft
            held = held or draft
    return held or NOTHING


def _relieve(scene: Scene, reading: DomainReading) -> Draft:
    """Relief of one domain that is short: how much is missing, and the mildest rung that brings it.

    A forecast may call a level before its threshold is crossed. Then soft and hard count as crossed now,
    so that the idle go while there is time; a kill waits until something is missing for critical.
    """
    facts = situation(scene, reading)
    for urgent in range(scene.domain(reading.name).urgent, Level.OK, -1):
        level = Level(urgent)
        threshold, available = scene.threshold(reading, level), reading.available_bytes or 0
        target = threshold + scene.policy.min_reclaim_bytes(reading.capacity_bytes or 0)
        coming = (
            scene.coming_in_time_bytes(reading)
            if level is Level.CRITICAL
            else scene.coming_bytes(reading.name, drains=True)
        )
        need = target - coming - (available if level is Level.CRITICAL else min(available, threshold))
        if need > 0:
            return _bring(scene, reading, level, need, facts)
        if coming:
            what = f"{bytes_text(coming)} are on their way"
            return Draft(Rung.HOLD, f"{facts}: waiting, {what}", domain=reading.name)
    return Draft(Rung.HOLD, f"{facts}: waiting, the target is reached", domain=reading.name)


def _bring(scene: Scene, reading: DomainReading, level: Level, need: int, facts: str) -> Draft:
    """The mildest rung that brings ``need`` bytes to a domain at a level."""
    chosen = victims.fewest(victims.idle(scene, reading.name), need)
    if chosen and _in_time(scene, reading, chosen, level):
        total = sum(runner.memory_bytes for runner in chosen)
        listed = ", ".join(_describe(runner) for runner in chosen)
        order = victims.order_text(scene, reading.name, len(chosen))
        together = f", {bytes_text(total)} together" if len(chosen) > 1 else ""
        reason = f"{facts}: unload {listed}{together}, since {bytes_text(need)} are needed{order}"
        return Draft(Rung.UNLOAD_IDLE, reason, ActionKind.UNLOAD, tuple(chosen), reading.name)
    if level is Level.CRITICAL:
        return _kill(scene, reading, need, facts)
    cache = reclaim.wanted_bytes(scene, reading, level, need)
    if cache:
        of = f"of {bytes_text(reading.cache_bytes or 0)} of page cache that counts as used"
        reason = f"{facts}: nothing idle is left, reclaim the {bytes_text(cache)} wanted {of}"
        action = reclaim.action(scene, reading, cache, reason)
        return Draft(Rung.RECLAIM, reason, action.kind, domain=reading.name, prepared=(action,))
    if level is Level.HARD:
        return _drain(scene, reading, need, facts)
    return Draft(Rung.HOLD, f"{facts}: hold, {_why_not_idle(scene, reading)}", domain=reading.name)


def _in_time(scene: Scene, reading: DomainReading, chosen: list[Runner], urgent: Level) -> bool:
    """Whether an unload is done before memory is; below ``critical`` there is time to see."""
    left = scene.seconds_to_exhaustion(reading)
    if urgent < Level.CRITICAL or left is None:
        return True
    return all_unloaded_seconds(scene.policy, scene.state.rates, chosen) < left


def _drain(scene: Scene, reading: DomainReading, need: int, facts: str) -> Draft:
    left = scene.seconds_to(reading, Level.CRITICAL)
    prior = scene.policy.drain_prior_seconds
    candidates = [
        runner
        for runner in victims.drainable(scene, reading.name)
        if left is None or (runner.spell_seconds or prior) < left
    ]
    chosen = victims.fewest(candidates, need)
    if not chosen:
        return Draft(Rung.HOLD, f"{facts}: hold, {_why_not_idle(scene, reading)}", domain=reading.name)
    listed = ", ".join(_describe(runner) for runner in chosen)
    reason = f"{facts}: nothing idle is left, so let {listed} end after its answer"
    return Draft(Rung.DRAIN_BUSY, reason, ActionKind.UNLOAD, tuple(chosen), reading.name)


def _kill(scene: Scene, reading: DomainReading, need: int, facts: str) -> Draft:
    if _wait_for_the_dying(scene, reading):
        return Draft(Rung.HOLD, f"{facts}: waiting for the killed runner to be gone", domain=reading.name)
    need += _lost_meanwhile(scene, reading, need)
    least = max(1, need - scene.policy.min_reclaim_bytes(reading.capacity_bytes or 0))
    victim = victims.to_kill(scene, reading, need, least)
    if victim is None:
        return Draft(Rung.HOLD, f"{facts}: hold, {_why_nobody(scene, reading)}", domain=reading.name)
    refusal = budgets.refusal(scene, reading)
    if refusal:
        exhausted = budgets.is_exhausted(scene)
        return Draft(Rung.HOLD, f"{facts}: hold, {refusal}", domain=reading.name, gave_up=exhausted)
    rung = Rung.ABORT_LOAD if victim.activity is Activity.LOADING else Rung.KILL_RUNNER
    verb = "abort the load of" if rung is Rung.ABORT_LOAD else "kill the runner of"
    reason = (
        f"{facts}: {verb} {_describe(victim)}, {bytes_text(need)} are needed and nothing milder is in time"
    )
    return Draft(rung, reason, ActionKind.KILL, (victim,), reading.name)


def _wait_for_the_dying(scene: Scene, reading: DomainReading) -> bool:
    """One kill at a time, unless memory would be at its end before the last one is gone."""
    dying = [action for action in scene.in_flight(reading.name) if action.kind is ActionKind.KILL]
    return any(not scene.too_late(action, reading) for action in dying)


def _lost_meanwhile(scene: Scene, reading: DomainReading, need: int) -> int:
    """Bytes that others will have taken before a killed runner has given back its own."""
    falling = max(0.0, -(scene.domain(reading.name).slope_bytes_per_second or 0.0))
    return int(falling * kill_seconds(scene.policy, scene.state.rates, need))


def situation(scene: Scene, reading: DomainReading) -> str:
    """``host has 612 MiB available, below soft 819 MiB, falling 210 MiB/s``."""
    urgent = scene.domain(reading.name).urgent
    available = reading.available_bytes or 0
    threshold = scene.threshold(reading, urgent)
    side = "below" if available < threshold else "about to cross"
    slope = scene.domain(reading.name).slope_bytes_per_second
    falling = f", falling {bytes_text(-slope)}/s" if slope is not None and slope < -(1024**2) else ""
    has = f"{reading.name} has {bytes_text(available)} available"
    return f"{has}, {side} {urgent.word} {bytes_text(threshold)}{falling}"


def _describe(runner: Runner) -> str:
    match runner.activity:
        case Activity.IDLE:
            doing = f"idle {seconds_text(runner.idle_seconds)}"
        case Activity.LOADING:
            doing = "loading"
        case Activity.STOPPING:
            doing = "asked to stop"
        case _:
            doing = "busy"
    return f"{runner.title} ({doing}, {bytes_text(runner.freeable_bytes)}{victims.worth_text(runner)})"


def _why_nobody(scene: Scene, reading: DomainReading) -> str:
    """Why nobody can be killed at critical, in a few words."""
    here = scene.within(reading.name)
    if not here:
        return "no Ollama runner holds memory here"
    spared = [runner.title for runner in here if not killable(runner)]
    waited = [runner.title for runner in here if victims.mercy_seconds(scene, runner)]
    told = [f"{', '.join(spared)} may never be touched"] if spared else []
    told += [f"a kill of {', '.join(waited)} has just failed"] if waited else []
    return "; ".join(told) or "no runner here would give memory back by dying, or it is dying already"


def _why_not_idle(scene: Scene, reading: DomainReading) -> str:
    """Why no milder step is left, in a few words."""
    here = scene.within(reading.name)
    if not here:
        return "no Ollama runner holds memory here"
    if not scene.api_usable():
        return "Ollama's API does not answer and a kill waits for critical"
    counts = {activity: sum(1 for r in here if r.activity is activity) for activity in Activity}
    told = ", ".join(f"{count} {activity}" for activity, count in counts.items() if count)
    return f"nothing can be unloaded now ({told}) and a kill waits for critical"
