"""What a run of the playbook is about: the runtime, the models that can never fit, the one that verifies."""

from __future__ import annotations

from ollama_guard.core import condemned, fit, sane
from ollama_guard.core.foreseen import DEFAULT_CONTEXT_TOKENS
from ollama_guard.core.model import CONTAINER, CatalogueEntry, Preference
from ollama_guard.core.policy import Protect, spelled
from ollama_guard.core.recovery import Target
from ollama_guard.core.runtime import RuntimeReading
from ollama_guard.core.scene import Scene
from ollama_guard.core.serving import room_alone_bytes, runtime_of, server_of
from ollama_guard.core.state import Condemned

# Models that one run hides, the largest first: the state map holds 64 KiB. All names that are known when a
# model is hidden go with it.
TARGETS_KEPT = 12
# Names of one action; it has to fit into a packet with all else.
NAMES_KEPT = 32
# A model whose file is smaller than this share of the room is not looked at any closer: no context that
# Ollama starts by itself makes so much of it.
CLOSER_LOOK_SHARE = 0.25


def runtime_here(scene: Scene) -> RuntimeReading | None:
    """How the server that is guarded is run."""
    return runtime_of(scene, server_of(scene))


def container_bytes(scene: Scene) -> int | None:
    """What Ollama's container may hold now; None = it has no limit of its own."""
    return next((d.capacity_bytes for d in scene.snapshot.domains if d.name == CONTAINER), None)


def needs_bytes(scene: Scene, entry: CatalogueEntry) -> int:
    """The least that any load of a model is known to need: with the context that Ollama takes by itself.

    What it was condemned for counts if that was with no more context: then no load takes less.
    """
    foreseen = fit.newborn(scene, entry, DEFAULT_CONTEXT_TOKENS).foreseen_bytes or 0
    records = (r for r in scene.state.durable.condemned if r.blob == entry.blob)
    return max(foreseen, *(r.needs_bytes for r in records if r.context_tokens <= DEFAULT_CONTEXT_TOKENS), 0)


def condemned_needs_bytes(scene: Scene, record: Condemned) -> int:
    """As `needs_bytes`, of a condemned blob; also where the catalogue does not have it."""
    entry = next((e for e in scene.snapshot.catalogue if e.blob == record.blob), None)
    return record.needs_bytes if entry is None else needs_bytes(scene, entry)


def unfit(scene: Scene) -> tuple[Target, ...]:
    """Every installed model that can't fit with nothing else loaded, the largest first."""
    room = room_alone_bytes(scene)
    if room is None or not scene.policy.quarantine.enabled:
        return ()
    known = {record.blob for record in scene.state.durable.condemned}
    found = []
    for entry in scene.snapshot.catalogue:
        size = sane.count(entry.size_bytes) or 0
        measured = entry.blob in scene.snapshot.footprints.by_blob
        if size < CLOSER_LOOK_SHARE * room and entry.blob not in known and not measured:
            continue
        needs = needs_bytes(scene, entry)
        target = Target(entry.blob, sane.written_names(names_of(scene, entry.blob)), needs)
        if needs > room and target.names and not is_spared(scene, target) and not is_hidden(scene, target):
            found.append(target)
    return tuple(sorted(found, key=lambda t: -t.needs_bytes)[:TARGETS_KEPT])


def names_of(scene: Scene, blob: str, written: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Every name under which clients can ask for a blob; not those under which it is hidden already."""
    kept_as = {spelled(e.alias) for e in scene.snapshot.store.entries}
    entry = next((e for e in scene.snapshot.catalogue if e.blob == blob), None)
    names = sane.names((*written, *(entry.names if entry is not None else ())))
    return tuple(name for name in names if spelled(name) not in kept_as)[:NAMES_KEPT]


def is_spared(scene: Scene, target: Target) -> bool:
    """Whether a person brought one of its names back, or said that it is never to be touched."""
    spared = {spelled(name) for name in scene.state.durable.spared}
    if any(spelled(name) in spared for name in target.names):
        return True
    rule = scene.policy.rule_of(target.names)
    return rule.preference is Preference.OMIT or rule.protect is Protect.ALWAYS


def is_hidden(scene: Scene, target: Target) -> bool:
    """Whether all names of it that are known are hidden already."""
    hidden = {spelled(e.name) for e in scene.snapshot.store.entries if not e.returned}
    names = names_of(scene, target.blob, target.names)
    return bool(names) and all(spelled(name) in hidden for name in names)


def to_verify(scene: Scene, attempt: int) -> str | None:
    """The smallest model that fits, on each further try the next one; None at last: the version must do.

    An embedding model can't answer, and nothing tells which is one: so not the same is asked twice.
    """
    room = room_alone_bytes(scene)
    constrained = min(room or 0, scene.policy.playbook.memory_bytes)
    hidden = scene.hidden_names
    fitting = sorted(
        (entry.size_bytes or 0, name)
        for entry in scene.snapshot.catalogue
        if 0 < (sane.count(entry.size_bytes) or 0) <= constrained
        and condemned.active(scene.state.durable, entry.blob, scene.now) is None
        for name in sane.names(entry.names)[:1]
        if spelled(name) not in hidden
    )
    return fitting[attempt][1] if attempt < min(len(fitting), 2) else None
