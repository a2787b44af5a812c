"""The keep_alive governor: while memory is short no idle model stays for longer than ``max_keep_alive``.

A client's keep_alive sticks to the runner, so that one request can pin a model for ever (facts 1.6). The
API takes that back in two ways. An empty prompt with another keep_alive loads the model if it has gone
meanwhile, and anew if it runs with other options than such a call has (facts 2.2, 8.3), and nobody can rule
out either. An unload never loads (facts 1.5). So Ollama is told nothing beforehand: the guard itself counts
for how long a model has had nothing to do, by its process, and has it unloaded when its time is over.

A race costs this much: a model that is asked for just then ends after that answer, which is not cut, and the
next request loads it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ollama_guard.core.conditions import blind_reasons
from ollama_guard.core.events import Event, Priority
from ollama_guard.core.ladder import Draft
from ollama_guard.core.model import (
    HOST,
    Action,
    ActionKind,
    Activity,
    Level,
    Mode,
    Preference,
    Rung,
    Snapshot,
)
from ollama_guard.core.runners import Runner, names_of
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import DomainState, Governed, RunnerState, State
from ollama_guard.core.units import bytes_text, seconds_text

# The share of ``max_keep_alive`` that an idle model has at each level. At soft the ladder's next step costs
# an idle model, at hard it ends a busy one, at critical it cuts an answer: whoever has gone before spares
# that. A tenth of the default is 3 s, and it takes 2 s to be sure that a model is idle.
SHARES = {Level.SOFT: 1.0, Level.HARD: 1 / 3, Level.CRITICAL: 1 / 10}
# One that goes after the others (``avoid``) has so many times as long.
AVOID_FACTOR = 2.0
# A model that is loaded again so soon (seconds) after it was let go would still be there by Ollama's own
# default (OLLAMA_KEEP_ALIVE, facts 2.5): it is in use, and letting it go cost a load. Each time in a row
# doubles its time, up to that default, so that loads, unloads and lines in the log don't become a drum.
RETURN_SECONDS = 300.0
RETURNS_COUNTED = 8
# That a model's time is bounded is told again after so long (seconds), however often it is pinned anew.
TOLD_AGAIN_SECONDS = 600.0
# What Ollama's own command line calls for ever (facts 1.4).
FOR_EVER_SECONDS = 20 * 365 * 86400.0
# The first version in which an unload does not load first (facts 0).
FIRST_UNLOADING = (0, 3, 11)


def review(scene: Scene, before: State, mode: Mode) -> Mapping[str, Governed]:
    """What is known of each blob after this tick's look; ``before`` is the state that the tick began with."""
    known = scene.state.governed
    if not scene.policy.governor.enabled or not (known or scene.state.level > Level.OK):
        return {} if known else known
    pasts = {(past.pid, past.start_ticks): past for past in before.runners}
    records = {blob: record for blob, record in known.items() if _counts_still(record, scene.now)}
    for runner in scene.runners:
        if blob := runner.reading.blob:
            record = _returned(known.get(blob, Governed()), runner)
            records[blob] = _looked_at(scene, record, runner, pasts.get(runner.key))
    if mode is Mode.ENFORCE and not blind_reasons(scene.snapshot):
        records |= _told(scene, records)
    return {blob: record for blob, record in records.items() if record != Governed()}


def _counts_still(record: Governed, now: float) -> bool:
    """Whether a blob that is not loaded is remembered: what was done to it, or told, is not long ago."""
    return _within(record.let_go_at, now, RETURN_SECONDS) or _within(record.told_at, now, TOLD_AGAIN_SECONDS)


def _within(at: float | None, now: float, seconds: float) -> bool:
    return at is not None and now - at < seconds


def _returned(record: Governed, runner: Runner) -> Governed:
    """The record of a blob that is loaded, where it was let go before: how soon it is back."""
    if record.let_go_at is None or runner.reading.born_at <= record.let_go_at:
        return record
    soon = runner.reading.born_at - record.let_go_at < RETURN_SECONDS
    return replace(record, let_go_at=None, returns=min(record.returns + 1, RETURNS_COUNTED) if soon else 0)


def _looked_at(scene: Scene, record: Governed, runner: Runner, past: RunnerState | None) -> Governed:
    """Since when memory is short where it lies, and when it was last asked for.

    Whoever asks moves the end that Ollama lists, to and fro, also by an empty prompt, which takes hardly any
    CPU time; that is seen when the list is next asked for.
    """
    if _level(scene.state.domains, runner.reading.domains)[0] is Level.OK:
        return replace(record, short_since_at=None, asked_at=None)
    own, was = _own_end(scene, runner), None if past is None else past.expires_at
    moved = own is not None and was is not None and own != was
    anew = record.short_since_at is None or scene.state.stalled_seconds > 0
    return replace(
        record,
        short_since_at=scene.now if anew else record.short_since_at,
        asked_at=scene.now if moved else record.asked_at,
    )


def _told(scene: Scene, records: Mapping[str, Governed]) -> dict[str, Governed]:
    """The records of models whose time is bounded from now on, which is to be told."""
    seen, told = _knowing(scene, records), {}
    for runner in scene.runners:
        record = records.get(runner.reading.blob or "", Governed())
        if _within(record.told_at, scene.now, TOLD_AGAIN_SECONDS) or not _is_bounded(seen, runner):
            continue
        own, bound = _own_end(scene, runner), bound_seconds(seen, runner)
        if own is not None and own - scene.now > bound:
            told[runner.reading.blob or ""] = replace(record, told_at=scene.now, bound_seconds=bound)
    return told


def _knowing(scene: Scene, records: Mapping[str, Governed]) -> Scene:
    return replace(scene, state=replace(scene.state, governed=records))


def bound_seconds(scene: Scene, runner: Runner) -> float:
    """For how long this model may have nothing to do while memory is as it is (not ok)."""
    level, _ = _level(scene.state.domains, runner.reading.domains)
    bound = scene.policy.governor.max_keep_alive_seconds * SHARES.get(level, 1.0)
    if runner.rule.preference is Preference.AVOID:
        bound *= AVOID_FACTOR
    returns = scene.state.governed.get(runner.reading.blob or "", Governed()).returns
    return min(bound * 2.0**returns, max(bound, RETURN_SECONDS))


def due_at(scene: Scene, runner: Runner) -> float | None:
    """When this model's time is over unless somebody asks for it (boottime seconds); None = by Ollama's word.

    Ollama itself ends one whose own time is over sooner, and it is not touched while that is not known.
    """
    if not _is_bounded(scene, runner):
        return None
    record, own = scene.state.governed[runner.reading.blob or ""], _own_end(scene, runner)
    used_at = max(runner.last_used_at, record.short_since_at or 0.0, record.asked_at or 0.0)
    due = used_at + bound_seconds(scene, runner)
    return due if own is not None and due < own else None


def draft(scene: Scene) -> Draft | None:
    """The unload of every idle model whose time is over, or None."""
    if scene.state.durable.playbook is not None:
        return None
    over = tuple(
        runner
        for runner in scene.runners
        if runner.activity is Activity.IDLE and scene.can_unload(runner) and _is_over(scene, runner)
    )
    if not over:
        return None
    level, domain = max(_level(scene.state.domains, runner.reading.domains) for runner in over)
    available = next((d.available_bytes for d in scene.snapshot.domains if d.name == domain), None)
    has = "" if available is None else f", {bytes_text(available)} available"
    listed = ", ".join(_describe(scene, runner) for runner in over)
    reason = f"{domain} is at {level.word}{has}: unload what has had nothing to do for too long: {listed}"
    return Draft(Rung.KEEP_ALIVE, reason, ActionKind.UNLOAD, over, domain)


def after(known: Mapping[str, Governed], done: Iterable[Action], now: float) -> Mapping[str, Governed]:
    """The records once these actions are posted."""
    gone = [action.blob for action in done if action.rung is Rung.KEEP_ALIVE and action.blob]
    return {**known, **{b: replace(known.get(b, Governed()), let_go_at=now) for b in gone}} if gone else known


def events(before: State, state: State, snapshot: Snapshot) -> list[Event]:
    """``keepalive.capped`` for each model whose time is bounded from this tick on."""
    told = []
    for past in state.runners:
        record = state.governed.get(past.blob or "", Governed())
        earlier = before.governed.get(past.blob or "", Governed()).told_at
        if record.told_at is None or record.told_at == earlier or past.expires_at is None:
            continue
        level, domain = _level(state.domains, past.domains)
        left, names = past.expires_at - snapshot.now, names_of(past.blob, snapshot)
        text = (
            f"{' = '.join(names)} would stay {_kept(left)} without a request: while {domain} is at "
            f"{level.word} it stays for {seconds_text(record.bound_seconds)}"
        )
        fields = {
            "blob": past.blob, "names": ", ".join(names), "pid": past.pid,
            "domain": domain, "level": level.word,
            "keep_alive_seconds": None if left > FOR_EVER_SECONDS else round(left, 1),
            "max_keep_alive_seconds": record.bound_seconds,
        }  # fmt: skip
        told.append(Event("keepalive.capped", text, Priority.NOTICE, fields))
    return told


def _is_bounded(scene: Scene, runner: Runner) -> bool:
    """Whether the governor has a say in it now: memory is short where it lies, and its owner lets it go."""
    record, version = scene.state.governed.get(runner.reading.blob or ""), scene.snapshot.api.version
    if record is None or record.short_since_at is None or version is None or _loads_to_unload(version):
        return False
    return bool(runner.names) and scene.is_meant(runner) and runner.rule.preference is not Preference.OMIT


def _is_over(scene: Scene, runner: Runner) -> bool:
    due = due_at(scene, runner)
    return due is not None and due <= scene.now


def _own_end(scene: Scene, runner: Runner) -> float | None:
    """When Ollama itself ends it, as last listed."""
    pasts = ((past.pid, past.start_ticks, past.expires_at) for past in scene.state.runners)
    return next((end for pid, ticks, end in pasts if (pid, ticks) == runner.key), None)


def _level(domains: Mapping[str, DomainState], names: Iterable[str]) -> tuple[Level, str]:
    """The worst level, as people see it, of the places where a runner's memory counts, and which that is."""
    levels = [(domains[name].level, name) for name in names if name in domains]
    return max(levels, key=lambda found: found[0], default=(Level.OK, HOST))


def _describe(scene: Scene, runner: Runner) -> str:
    own = _own_end(scene, runner)
    kept = "" if own is None else f", else kept {_kept(own - scene.now)}"
    idle = (
        f"idle {seconds_text(runner.idle_seconds)}, at most {seconds_text(bound_seconds(scene, runner))} now"
    )
    return f"{runner.title} ({idle}{kept}, {bytes_text(runner.freeable_bytes)})"


def _kept(seconds: float) -> str:
    return "for ever" if seconds > FOR_EVER_SECONDS else f"for {seconds_text(seconds)}"


def _loads_to_unload(version: str) -> bool:
    """Whether this version would load a model in order to unload it; one that can't be told is a newer one.

    0.0.0 is what a build of one's own says.
    """
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})", version)
    return found is not None and (0, 0, 0) < tuple(map(int, found.groups())) < FIRST_UNLOADING
