"""Condemned blobs: had to be aborted or killed twice in ten minutes, so they are killed at birth.

The term doubles with each new conviction, up to a day. A blob is pardoned when what it needs has fitted for a
whole transition, after a day in which nobody asked for it, or when a person takes it back. What a load needs
hangs on the context that was asked for, so a load with less of it may be spared.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import loads, sane, victims
from ollama_guard.core.foreseen import DEFAULT_CONTEXT_TOKENS
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
RECORDS_KEPT = 30
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
        and not _is_spared(scene, runner, record)
    ]


def _is_spared(scene: Scene, runner: Runner, record: Condemned) -> bool:
    """Whether it was asked for with less context than any that had to go, and so much fits now."""
    smaller = _context(runner.reading.context_tokens) < _context(record.context_tokens)
    if not smaller or (runner.foreseen_bytes or record.needs_bytes) >= record.needs_bytes:
        return False
    here = [reading for reading in scene.readable() if reading.name in runner.reading.domains]
    return bool(here) and all(loads.shortage(scene, runner, reading, 0) is None for reading in here)


def _context(tokens: int | None) -> int:
    return tokens or DEFAULT_CONTEXT_TOKENS


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
    if action.orphan:  # nobody had asked for it
        return durable
    if active(durable, action.blob, outcome.at) is None and action.rung not in (
        Rung.ABORT_LOAD,
        Rung.KILL_RUNNER,
    ):
        return durable
    context = action.footprint.context_tokens if action.footprint is not None else 0
    strike = Strike(action.blob, outcome.at, action.needs_bytes or outcome.freed_bytes, context)
    return struck(durable, strike, action.names, policy)


def struck(durable: Durable, strike: Strike, names: tuple[str, ...], policy: Policy) -> Durable:
    """The durable state after a runner of this blob was killed, by the guard or by the kernel."""
    blob, now = strike.blob, strike.at
    record = active(durable, blob, now)
    if record is not None:
        asked = replace(record, kills=record.kills + 1, last_asked_at=now)
        return replace(durable, condemned=tuple(asked if c is record else c for c in durable.condemned))
    strikes = (*(s for s in durable.strikes if now - s.at <= STRIKE_WINDOW_SECONDS), strike)[-RECORDS_KEPT:]
    durable = replace(durable, strikes=strikes)
    own = [s for s in strikes if s.blob == blob]
    former = next((c for c in durable.condemned if c.blob == blob), None)
    if len(own) < STRIKES_TO_CONDEMN and former is None:
        return durable
    term = min(former.term_seconds * 2, policy.condemned_max_seconds) if former else policy.condemned_seconds
    known = [(_context(s.context_tokens), s.needs_bytes) for s in (*own, *((former,) if former else ()))]
    context = min(tokens for tokens, _ in known)
    needs = max(count for tokens, count in known if tokens == context)
    return convicted(durable, Strike(blob, now, needs, context), names, term)


def convicted(durable: Durable, last: Strike, names: tuple[str, ...], term_seconds: float) -> Durable:
    """The durable state with this blob condemned from ``last`` on, for what that says it needs."""
    blob, now = last.blob, last.at
    verdict = Condemned(
        blob=blob,
        names=sane.written_names(names),
        since_at=now,
        until_at=now + term_seconds,
        term_seconds=term_seconds,
        needs_bytes=last.needs_bytes,
        last_asked_at=now,
        context_tokens=last.context_tokens,
    )
    others = tuple(c for c in durable.condemned if c.blob != blob)[-(RECORDS_KEPT - 1) :]
    strikes = tuple(s for s in durable.strikes if s.blob != blob)
    return replace(durable, condemned=(*others, verdict), strikes=strikes)


def by_hand(durable: Durable, action: Action, outcome: Outcome) -> Durable:
    """The durable state after a person took something back: a model, or all that the guard ever did."""
    if action.request_id is None or outcome.kind is not OutcomeKind.DONE:
        return durable
    if action.kind is ActionKind.RELEASE:
        return replace(durable, condemned=(), strikes=())
    if action.kind is not ActionKind.RESTORE:
        return durable
    names = set(action.names)
    freed = {c.blob for c in durable.condemned if names & set(c.names)} | {action.blob}
    return replace(
        durable,
        condemned=tuple(c for c in durable.condemned if c.blob not in freed),
        strikes=tuple(s for s in durable.strikes if s.blob not in freed),
    )
