"""Whether each tier of the ladder could be used, as this moment alone judges it; `allowed` knows the past."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ollama_guard.core import conditions, fit, narrow
from ollama_guard.core.model import Activity, CatalogueEntry, DomainReading, Level, Mode, Preference
from ollama_guard.core.policy import spelled
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, heard_at, mode_of
from ollama_guard.core.tiers import Tier
from ollama_guard.core.units import bytes_text, seconds_text


@dataclass(frozen=True, slots=True)
class Verdict:
    """One tier as this moment alone judges it, with why.

    ``serves`` is whether its load would go through (None: it can't be told), ``strains`` why memory would be
    below soft with it ("" = it would not). ``lasting``: a refusal is memory's, so that quiet has to follow.
    ``later``: its load would go through as soon as others have made room; ``crowded`` is the domain where
    that takes models that are at work, ``crowd`` says so. ``loaded``: it needs no load.
    """

    tier: Tier
    serves: bool | None
    reason: str
    strains: str = ""
    lasting: bool = False
    later: bool = False
    crowded: str = ""
    crowd: str = ""
    loaded: bool = False


def judged(scene: Scene) -> list[Verdict]:
    """Every tier as this moment alone judges it, small to large."""
    tiers, found = scene.policy.tiers, entries(scene)
    away, verdicts = _away(scene), []
    for place, tier in enumerate(tiers):
        entry = found.get(tier.name)
        if entry is None:
            verdicts.append(_absent(scene, tier, away))
            continue
        above = frozenset(found[larger.name].blob for larger in tiers[place + 1 :] if larger.name in found)
        verdicts.append(_judged(scene, tier, entry, away, above - {entry.blob}))
    return verdicts


def entries(scene: Scene) -> dict[str, CatalogueEntry]:
    """The installed model of each tier, by the tier's name; without those that are hidden from clients."""
    hidden, models = scene.hidden_names, {spelled(tier.model) for tier in scene.policy.tiers}
    there = {
        word: entry
        for entry in reversed(scene.snapshot.catalogue)
        for name in entry.names
        if (word := spelled(name)) in models and word not in hidden
    }
    found = {tier.name: there.get(spelled(tier.model)) for tier in scene.policy.tiers}
    return {name: entry for name, entry in found.items() if entry is not None}


def twins(scene: Scene) -> dict[str, Tier]:
    """By its name, each tier whose model a smaller tier has as well under another name, and that one."""
    first: dict[str, Tier] = {}
    found = entries(scene)
    return {
        tier.name: first[found[tier.name].blob]
        for tier in scene.policy.tiers
        if tier.name in found and first.setdefault(found[tier.name].blob, tier) is not tier
    }


def _absent(scene: Scene, tier: Tier, away: Verdict | None) -> Verdict:
    if spelled(tier.model) in scene.hidden_names:
        return Verdict(tier, serves=False, reason=f"{tier.model} is hidden from clients (quarantine)")
    if not scene.snapshot.catalogue:
        told = Verdict(tier, serves=None, reason="Ollama has told of no installed model yet")
        return told if away is None else replace(told, serves=away.serves, reason=away.reason)
    return Verdict(tier, serves=False, reason=f"{tier.model} is not installed")


def _away(scene: Scene) -> Verdict | None:
    """What is to be said of every tier since Ollama can't be asked for anything; None while it can."""
    state, answered = scene.state, scene.snapshot.api.answered_at
    tier = scene.policy.tiers[0]
    position, stopped = state.durable.playbook, state.durable.stopped
    if (position is not None and position.stopping) or stopped is not None:
        return Verdict(tier, serves=False, reason="Ollama is being recovered: it is down for a moment")
    if state.symptoms.frozen:
        return Verdict(tier, serves=False, reason=f"Ollama is frozen: {state.symptoms.frozen}")
    if answered is None:
        error = f" ({scene.snapshot.api.error})" if scene.snapshot.api.error else ""
        return Verdict(tier, serves=None, reason=f"Ollama has not answered yet{error}")
    silent = scene.now - heard_at(state, answered)
    if silent > scene.policy.ollama.unresponsive_after_seconds:
        return Verdict(tier, serves=False, reason=f"Ollama has not answered for {seconds_text(silent)}")
    return None


def _judged(
    scene: Scene, tier: Tier, entry: CatalogueEntry, away: Verdict | None, above: frozenset[str]
) -> Verdict:
    told = fit.judge(scene, entry, tier.memory_bytes)
    verdict = Verdict(tier, told.fits, told.reason)
    if away is not None:
        return replace(verdict, serves=away.serves, reason=away.reason)
    kept = narrow.smallest(scene) if narrow.position_of(scene) is not None else None
    if kept is not None and kept.blob != entry.blob:
        reason = f"models_dont_load is running: until memory is back only {kept.names[0]} is used"
        return replace(verdict, serves=False, reason=reason)
    blind = conditions.blind_reasons(scene.snapshot)
    if blind:
        return replace(verdict, serves=None, reason=f"blind: {'; '.join(blind)}")
    if told.fits is None:
        return verdict
    return _weighed(scene, entry, verdict, told, above)


def _weighed(
    scene: Scene, entry: CatalogueEntry, verdict: Verdict, told: fit.Fit, above: frozenset[str]
) -> Verdict:
    """By what `fit` says of it, and by who else would have to go."""
    mode = mode_of(scene.policy, scene.state.durable, scene.now)
    if told.fits or (told.makes_room and mode is Mode.ENFORCE):
        own = _own(scene, entry)
        loaded = own is not None and own.activity is not Activity.LOADING
        return replace(verdict, serves=True, strains=_strain(scene, entry, told, above), loaded=loaded)
    if mode is not Mode.ENFORCE:
        looks_on = f", and the guard only looks on (mode {mode})" if told.makes_room else ""
        return replace(verdict, serves=False, reason=f"{told.reason}{looks_on}", lasting=True)
    crowded = _crowded(scene, entry, told, above) if told.short_bytes else None
    if crowded is None:
        return replace(verdict, serves=False, lasting=True)
    needs = f"it needs {bytes_text(told.needs_bytes or 0)} ({told.needs_source})"
    others = ", ".join(r.title for r in scene.runners if r.reading.blob != entry.blob and _stays(r))
    reason = f"{needs}, which there is once {others or 'what is stopping'} makes room"
    served = replace(verdict, serves=True, reason=reason, strains=_strain(scene, entry, told, above))
    return replace(served, later=True, crowded=crowded, crowd=told.reason)


def _crowded(scene: Scene, entry: CatalogueEntry, told: fit.Fit, above: frozenset[str]) -> str | None:
    """Who is in its way: None for memory itself, a domain's name for other models that are at work there.

    "" for loads in flight, and for larger tiers: these are let go as soon as they are used no more.
    """
    own, crowded = _own(scene, entry), ""
    need = (told.needs_bytes or 0) if own is None else own.remaining_bytes
    for reading in scene.readable():
        others = _others(scene, reading, entry.blob)
        room = scene.headroom(reading, Level.HARD) + scene.coming_bytes(reading.name, drains=True)
        if need > room + sum(runner.memory_bytes for runner in others):
            return None
        if need > room + _gone_bytes(others, above):
            crowded = crowded or reading.name
    return crowded


def _strain(scene: Scene, entry: CatalogueEntry, told: fit.Fit, above: frozenset[str]) -> str:
    """Why memory that is short already would stay below soft with this model in use, or ""."""
    own = _own(scene, entry)
    need = (told.needs_bytes or 0) if own is None else own.remaining_bytes
    for reading in scene.readable():
        level = scene.domain(reading.name).level
        if level is Level.OK or (own is not None and reading.name not in own.reading.domains):
            continue
        gone = _gone_bytes(_others(scene, reading, entry.blob), above)
        room = scene.headroom(reading, Level.SOFT) + scene.coming_bytes(reading.name, drains=True) + gone
        if need > room:
            held = own.memory_bytes if own is not None else 0
            with_it = f"it holds {bytes_text(held)}" if held else f"it needs {bytes_text(need)}"
            short = bytes_text(need - room)
            return f"{reading.name} is at {level.word}, and {with_it}: {short} too much to be above soft"
    return ""


def _own(scene: Scene, entry: CatalogueEntry) -> Runner | None:
    """The runner that would answer."""
    return next((r for r in scene.runners if r.reading.blob == entry.blob and _stays(r)), None)


def _others(scene: Scene, reading: DomainReading, blob: str) -> list[Runner]:
    """The other runners of a domain whose memory may come back."""
    return [
        runner
        for runner in scene.within(reading.name)
        if runner.reading.blob != blob and _stays(runner) and runner.rule.preference is not Preference.OMIT
    ]


def _gone_bytes(others: Iterable[Runner], above: frozenset[str]) -> int:
    """What comes back for sure: those who are idle can go, and larger tiers once they are used no more."""
    return sum(
        runner.memory_bytes
        for runner in others
        if runner.activity is Activity.IDLE or runner.reading.blob in above
    )


def _stays(runner: Runner) -> bool:
    """Whether it is there to be used, or to be unloaded: what is stopping counts as coming back."""
    return runner.activity is not Activity.STOPPING
