"""Condemned blobs: had to be aborted or killed twice in ten minutes, so they are killed at birth.

The term doubles with each new conviction, up to a day. A blob is pardoned when what it needs has
fitted for a whole transition, or after a day in which nobody asked for it.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import sane, victims
from ollama_guard.core.model import (
    Action,
    ActionKind,
    Level,
    Outcome,
    OutcomeKind,
    Preference,
    Rung,
)
from ollama_guard.core.policy import Policy
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Condemned, Durable, Strike

# Strikes count for this long (seconds; design, section 3).
STRIKE_WINDOW_SECONDS = 600.0
STRIKES_TO_CONDEMN = 2
# A record is forgotten after this long unasked (seconds; design, section 5).
FORGET_SECONDS = 86400.0
# Blobs remembered: the state map holds 64 KiB, and who may create models may create thousands. The oldest go
# first.
RECORDS_KEPT = 32
# Names of one that died, which are told of it.
NAMES_KEPT = 4


def active(durable: Durable, blob: str | None, now: float) -> Condemned | None:
    """The record under which a runner of this blob is killed at birth, if any."""
    if blob is None:
        return None
    return next((c for c in durable.condemned if c.blob == blob and c.until_at > now), None)


def at_birth(scene: Scene) -> list[Runner]:
    """Runners of condemned blobs that are to be killed now."""
    return [
        runner
        for runner in scene.runners
        if (record := active(scene.state.durable, runner.reading.blob, scene.now)) is not None
        and runner.reading.born_at >= record.since_at
        and scene.policy.rule_of((*record.names, *runner.names)).preference is not Preference.OMIT
        and not any(a.key == runner.key and a.kind is ActionKind.KILL for a in scene.state.in_flight)
        and not victims.mercy_seconds(scene, runner)
    ]


def review(scene: Scene) -> tuple[Condemned, ...]:
    """The records as they stand after this tick: pardoned ones and those long unasked are gone."""
    kept = []
    for record in scene.state.durable.condemned:
        fits = _fits(scene, record)
        since = (record.fits_since_at if record.fits_since_at is not None else scene.now) if fits else None
        pardoned = since is not None and scene.now - since >= scene.policy.transition_seconds
        unasked = scene.now - max(record.last_asked_at, record.since_at) > FORGET_SECONDS
        if not pardoned and not unasked:
            kept.append(record if since == record.fits_since_at else replace(record, fits_since_at=since))
    return tuple(kept)


def _fits(scene: Scene, record: Condemned) -> bool:
    readings = scene.readable()
    if not readings:
        return False
    for reading in readings:
        idle = sum(runner.memory_bytes for runner in victims.idle(scene, reading.name))
        if record.needs_bytes > scene.headroom(reading, Level.HARD) + idle:
            return False
    return True


def after(durable: Durable, action: Action, outcome: Outcome, policy: Policy) -> Durable:
    """The durable state after a kill: a strike, maybe a conviction, or one more kill at birth."""
    if action.kind is not ActionKind.KILL or outcome.kind is not OutcomeKind.DONE or action.blob is None:
        return durable
    if active(durable, action.blob, outcome.at) is None and action.rung not in (
        Rung.ABORT_LOAD,
        Rung.KILL_RUNNER,
    ):
        return durable
    needs = max(action.needs_bytes, outcome.freed_bytes)
    return struck(durable, action.blob, action.names, needs, outcome.at, policy)


def struck(
    durable: Durable, blob: str, names: tuple[str, ...], needs_bytes: int, now: float, policy: Policy
) -> Durable:
    """The durable state after a runner of this blob was killed, by the guard or by the kernel."""
    record = active(durable, blob, now)
    if record is not None:
        asked = replace(record, kills=record.kills + 1, last_asked_at=now)
        return replace(durable, condemned=tuple(asked if c is record else c for c in durable.condemned))
    strike = Strike(blob, now, needs_bytes)
    strikes = (*(s for s in durable.strikes if now - s.at <= STRIKE_WINDOW_SECONDS), strike)[-RECORDS_KEPT:]
    durable = replace(durable, strikes=strikes)
    own = [s for s in strikes if s.blob == blob]
    former = next((c for c in durable.condemned if c.blob == blob), None)
    if len(own) < STRIKES_TO_CONDEMN and former is None:
        return durable
    term = min(former.term_seconds * 2, policy.condemned_max_seconds) if former else policy.condemned_seconds
    return convicted(durable, blob, names, max(s.needs_bytes for s in own), now, term)


def convicted(
    durable: Durable, blob: str, names: tuple[str, ...], needs_bytes: int, now: float, term_seconds: float
) -> Durable:
    """The durable state with this blob condemned from now on."""
    verdict = Condemned(
        blob=blob,
        names=sane.written_names(names),
        since_at=now,
        until_at=now + term_seconds,
        term_seconds=term_seconds,
        needs_bytes=needs_bytes,
        last_asked_at=now,
    )
    others = tuple(c for c in durable.condemned if c.blob != blob)[-(RECORDS_KEPT - 1) :]
    strikes = tuple(s for s in durable.strikes if s.blob != blob)
    return replace(durable, condemned=(*others, verdict), strikes=strikes)
