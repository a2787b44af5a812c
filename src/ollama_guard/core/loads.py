"""Loads in flight, judged at birth: does what is still to come fit, and if not, what has to go?

A newborn runner's final size is foreseeable (`foreseen`). It fits when it leaves every domain above its
hard threshold; it fits with the idle gone when unloading them would make it so; else it is aborted
before anything else is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from ollama_guard.core import victims
from ollama_guard.core.model import ActionKind, DomainReading, Level, Preference, Rung
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, killable
from ollama_guard.core.units import bytes_text
from ollama_guard.core.victims import mercy_seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a load in flight calls for."""

    rung: Rung
    kind: ActionKind
    targets: tuple[Runner, ...]
    reason: str
    domain: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """``need_bytes`` beyond the ``room_bytes`` above hard; ``idle`` are those who could go for it."""

    room_bytes: int
    need_bytes: int
    idle: tuple[Runner, ...]

    @property
    def idle_bytes(self) -> int:
        """What all of them hold."""
        return sum(runner.memory_bytes for runner in self.idle)

    @property
    def victims(self) -> tuple[Runner, ...]:
        """The fewest who make room; nobody where all together don't."""
        return tuple(victims.fewest(self.idle, self.need_bytes)) if self.idle_bytes >= self.need_bytes else ()


def judge(scene: Scene) -> Verdict | None:
    """The first load in flight that does not simply fit, oldest first (Ollama loads one at a time).

    A load that does not fit in one of its domains is aborted before room is made in another.
    """
    loading = [r for r in scene.runners if r.growing]
    ahead = {reading.name: 0 for reading in scene.readable()}
    for runner in sorted(loading, key=lambda r: r.reading.born_at):
        here = [reading for reading in scene.readable() if reading.name in runner.reading.domains]
        verdicts = [_judge_one(scene, runner, reading, ahead[reading.name]) for reading in here]
        found = [verdict for verdict in verdicts if verdict is not None]
        if found:
            return next((verdict for verdict in found if verdict.rung is Rung.ABORT_LOAD), found[0])
        for reading in here:
            ahead[reading.name] += runner.remaining_bytes
    return None


def shortage(scene: Scene, runner: Runner, reading: DomainReading, ahead_bytes: int) -> Shortage | None:
    """What a load lacks in a domain of which older loads will take ``ahead_bytes``; None when it fits."""
    remaining = runner.remaining_bytes
    if remaining == 0:
        return None
    coming = scene.coming_bytes(reading.name, drains=False)
    room = scene.headroom(reading, Level.HARD) + coming - ahead_bytes
    if remaining <= room:
        return None
    idle = [v for v in victims.idle(scene, reading.name) if v.reading.blob != runner.reading.blob]
    return Shortage(room, remaining - room, tuple(idle))


def _judge_one(scene: Scene, runner: Runner, reading: DomainReading, ahead_bytes: int) -> Verdict | None:
    lack = shortage(scene, runner, reading, ahead_bytes)
    if lack is None:
        return None
    facts = (
        f"{runner.title} is loading and will need {bytes_text(runner.remaining_bytes)} more of its "
        f"{bytes_text(runner.foreseen_bytes or 0)} ({runner.foreseen_source}); "
        f"{reading.name} has {bytes_text(max(0, lack.room_bytes))} above hard"
    )
    chosen = lack.victims
    if chosen:
        listed = ", ".join(f"{victim.title}{victims.worth_text(victim)}" for victim in chosen)
        order = victims.order_text(scene, reading.name, len(chosen))
        reason = f"{facts}: unload idle {listed} to make room{order}"
        return Verdict(Rung.UNLOAD_IDLE, ActionKind.UNLOAD, chosen, reason, reading.name)
    if not _may_abort(scene, runner, reading):
        return None
    spare = bytes_text(lack.idle_bytes)
    reason = f"{facts} and idle models hold {spare}: it can't fit, abort the load"
    return Verdict(Rung.ABORT_LOAD, ActionKind.KILL, (runner,), reason, reading.name)


def _may_abort(scene: Scene, runner: Runner, reading: DomainReading) -> bool:
    """``omit`` is aborted at ``critical`` only, and never with ``protect = "always"``."""
    if mercy_seconds(scene, runner):
        return False
    if runner.rule.preference is Preference.OMIT:
        return killable(runner) and scene.domain(reading.name).urgent >= Level.CRITICAL
    return True
