"""Would a model fit if it were asked for now? Told by what would judge its load: `loads` and `condemned`.

A runner of it is thought to be born this moment, and looked at as the ladder would.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ollama_guard.core import cap, condemned, conditions, loads, narrow, sane
from ollama_guard.core.footprint import Footprint
from ollama_guard.core.foreseen import MEASURED
from ollama_guard.core.model import (
    Activity,
    CatalogueEntry,
    DomainReading,
    Level,
    Preference,
    RunnerReading,
)
from ollama_guard.core.policy import ModelRule
from ollama_guard.core.runners import Runner, census
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import RunnerState, State
from ollama_guard.core.units import bytes_text, seconds_text

# How a size is known that the owner wrote down.
EXPECTED = "as [[tiers]] expects"


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer for one model.

    ``fits`` is None when it can't be told; ``needs_bytes`` (None = not known) comes with the words that say
    how it is known. ``victims`` are who would be unloaded for it, ``short_bytes`` what is missing even then.
    """

    fits: bool | None
    reason: str
    needs_bytes: int | None = None
    needs_source: str = ""
    measured: bool = False
    victims: tuple[Runner, ...] = ()
    short_bytes: int = 0

    @property
    def makes_room(self) -> bool:
        """Whether it would fit once those others are unloaded."""
        return self.fits is False and bool(self.victims) and not self.short_bytes


def judge(scene: Scene, entry: CatalogueEntry, expected_bytes: int | None = None) -> Fit:
    """Whether the model could be loaded now, as `decide` would see its load at birth.

    The context is that of its last load, as far as one was seen; another one may be asked for. On a machine
    with several Ollama servers it must fit wherever one of them is. ``expected_bytes`` is what its owner
    expects it to take: it counts until a load was measured, where it is more than is foreseen.
    """
    born = _at_least(newborn(scene, entry), expected_bytes)
    ours = next((r for r in scene.runners if r.reading.blob == entry.blob), None)
    if ours is not None and ours.activity not in (Activity.LOADING, Activity.STOPPING):
        held = f"it is loaded ({ours.activity}, {bytes_text(ours.memory_bytes)})"
        return _with_need(Fit(fits=True, reason=held), born)
    blind = conditions.blind_reasons(scene.snapshot)
    here = [reading for reading in scene.readable() if reading.name in born.reading.domains]
    if blind or not here:
        return _with_need(Fit(None, "; ".join(blind) or "memory can't be read"), born)
    record = condemned.active(scene.state.durable, entry.blob, scene.now)
    if record is not None and scene.policy.rule_of(entry.names).preference is not Preference.OMIT:
        left = seconds_text(record.until_at - scene.now)
        return _with_need(Fit(fits=False, reason=f"it is condemned: killed at birth for {left} more"), born)
    kept = narrow.forbids(scene, entry.blob, entry.size_bytes)
    if kept is not None and scene.policy.rule_of(entry.names).preference is not Preference.OMIT:
        reason = f"models_dont_load is running: until memory is back only {kept.names[0]} is loaded"
        return _with_need(Fit(fits=False, reason=reason), born)
    if born.foreseen_bytes is None:
        return Fit(None, "its size is not known")
    loading = ours if ours is not None and ours.activity is Activity.LOADING else born
    return _with_need(_weighed(scene, loading, here), born)


def _at_least(born: Runner, expected_bytes: int | None) -> Runner:
    if expected_bytes is None or born.foreseen_source == MEASURED:
        return born
    if born.foreseen_bytes is not None and born.foreseen_bytes >= expected_bytes:
        return born
    return replace(born, foreseen_bytes=expected_bytes, foreseen_source=EXPECTED)


def _with_need(fit: Fit, born: Runner) -> Fit:
    return replace(
        fit,
        needs_bytes=born.foreseen_bytes,
        needs_source=born.foreseen_source,
        measured=born.foreseen_source == MEASURED,
    )


def _weighed(scene: Scene, runner: Runner, here: list[DomainReading]) -> Fit:
    older = [r for r in scene.runners if r.growing and r.reading.born_at <= runner.reading.born_at]
    lacks: list[tuple[DomainReading, loads.Shortage]] = []
    for reading in here:
        ahead = sum(
            r.remaining_bytes for r in older if r.key != runner.key and reading.name in r.reading.domains
        )
        lack = loads.shortage(scene, runner, reading, ahead)
        if lack is not None:
            lacks.append((reading, lack))
    if not lacks:
        return Fit(fits=True, reason=_roomy(scene, runner, here))
    hopeless = [(reading, lack) for reading, lack in lacks if not lack.victims]
    if hopeless:
        reading, lack = max(hopeless, key=lambda pair: pair[1].need_bytes - pair[1].idle_bytes)
        short = lack.need_bytes - lack.idle_bytes
        reason = _hopeless(scene, runner, reading, lack)
        return Fit(fits=False, reason=reason, victims=lack.idle, short_bytes=short)
    chosen = tuple({victim.key: victim for _, lack in lacks for victim in lack.victims}.values())
    reading, lack = lacks[0]
    reason = f"{_facts(runner, reading, lack.room_bytes)}: {_listed(chosen)} would be unloaded to make room"
    return Fit(fits=False, reason=reason, victims=chosen)


def _facts(runner: Runner, reading: DomainReading, room_bytes: int) -> str:
    needs = f"it needs {bytes_text(runner.remaining_bytes)} ({runner.foreseen_source})"
    return f"{needs} and {reading.name} has {bytes_text(max(0, room_bytes))} above hard"


def _roomy(scene: Scene, runner: Runner, here: list[DomainReading]) -> str:
    """Why it fits, and what it will cost others all the same."""
    tightest = min(here, key=lambda reading: scene.headroom(reading, Level.HARD))
    told = _facts(runner, tightest, scene.headroom(tightest, Level.HARD))
    crowded = replace(scene, runners=(*(r for r in scene.runners if r.key != runner.key), runner))
    over = cap.victims(crowded)
    if over:
        told += f"; the soft cap is {cap.effective(scene.policy, scene.state)}, so {_listed(over)} would go"
    elif any(scene.headroom(reading, Level.SOFT) < runner.remaining_bytes for reading in here):
        told += "; memory will be below soft then, and idle models may go"
    return told


def _hopeless(scene: Scene, runner: Runner, reading: DomainReading, lack: loads.Shortage) -> str:
    """Why it can't fit, and who else holds memory: to end their work is the owner's to decide."""
    short = bytes_text(lack.need_bytes - lack.idle_bytes)
    even = f"even with {_listed(lack.idle)} unloaded " if lack.idle else ""
    told = (
        f"{_facts(runner, reading, lack.room_bytes)}: {even}{short} are missing, so its load would be aborted"
    )
    gone = {runner.key, *(victim.key for victim in lack.idle)}
    others = [other for other in scene.within(reading.name) if other.key not in gone]
    return f"{told}; also loaded: {_listed(others)}" if others else told


def _listed(runners: Iterable[Runner]) -> str:
    return ", ".join(f"{r.title} ({r.activity}, {bytes_text(r.memory_bytes)})" for r in runners)


def newborn(scene: Scene, entry: CatalogueEntry, most_tokens: int | None = None) -> Runner:
    """A runner of this model as it would be seen at its birth, were it born now, with so much context."""
    row = _last_load(scene, entry.blob)
    context = (row.key.context_tokens or None) if row else None
    if most_tokens is not None and (context or most_tokens) >= most_tokens:
        context = min(most_tokens, sane.count(entry.training_context) or most_tokens)
    reading = RunnerReading(
        pid=max((r.reading.pid for r in scene.runners), default=1) + 1,
        start_ticks=0,
        born_at=scene.now,
        server_pid=next((server.pid for server in scene.snapshot.servers), 0),
        proven=True,
        proof="thought of",
        blob=entry.blob,
        blob_bytes=entry.size_bytes,
        context_tokens=context,
        parallel=(row.key.parallel or None) if row else None,
        weights_mapped=row.key.weights_mapped if row else _maps_weights(scene),
        cache_type=next((r.reading.cache_type for r in scene.runners), ""),
        anon_bytes=0,
        domains=tuple(domain.name for domain in scene.snapshot.domains),
    )
    past = RunnerState(reading.pid, 0, scene.now, grew_at=scene.now, last_used_at=scene.now)
    alone = replace(scene.snapshot, runners=(reading,), catalogue=(entry,))
    (born,) = census(scene.policy, State(runners=(past,)), alone)
    # The owner's rule says whether the load may be aborted, not whether it fits.
    return replace(born, rule=ModelRule())


def _last_load(scene: Scene, blob: str) -> Footprint | None:
    """The row that was asked for last, before all others one that was measured."""
    rows = scene.snapshot.footprints.by_blob.get(blob, ())
    return max(rows, key=lambda row: (row.anon_bytes is not None, row.asked_at), default=None)


def _maps_weights(scene: Scene) -> bool:
    """As all runners here do; without any, as Ollama does without a GPU: it doesn't (facts 3.2)."""
    return bool(scene.runners) and all(runner.reading.weights_mapped for runner in scene.runners)
