"""Hiding and restoring asked for by a person: the action, or the sentence that says why there is none.

Asking for what is already so is not a failure. A person's word needs no authority and no lack of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ollama_guard.core import naming, targets
from ollama_guard.core.hiding import DEADLINE_SECONDS
from ollama_guard.core.model import Action, ActionKind, Request, Rung
from ollama_guard.core.policy import spelled
from ollama_guard.core.quarantined import Hidden, QuarantineEntry
from ollama_guard.core.scene import Scene

# Hidden names that a refusal lists; more would not be read.
LISTED = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no action; ``ok`` when what was asked for is so already."""

    text: str
    ok: bool = False


def hide(scene: Scene, request: Request) -> Action | Refusal:
    """The action that hides a model under all its names."""
    wanted, store = spelled(request.model), scene.snapshot.store
    kept = next((e for e in store.entries if wanted in (spelled(e.name), spelled(e.alias))), None)
    if kept is not None and kept.how is not Hidden.DELETED and not kept.returned:
        return Refusal(f"{kept.name} is hidden already, as {kept.alias}", ok=True)
    if naming.is_misread(wanted):
        return Refusal(f"{request.model} runs elsewhere by its name: it takes no memory here")
    entry = next((e for e in scene.snapshot.catalogue if wanted in map(spelled, e.names)), None)
    if entry is None:
        return Refusal(f"no model named {request.model!r} is installed")
    if not store.writable and not scene.api_usable():
        why = store.error or "Ollama's models folder is not known"
        return Refusal(f"it can't be hidden now: Ollama's API does not answer, and {why}")
    names = tuple(name for name in entry.names if not naming.is_alias(name))
    title = " = ".join(names)
    needs = targets.needs_bytes(scene, entry)
    return _action(scene, request, ActionKind.QUARANTINE, names, f"hide {title}", entry.blob, needs)


def restore(scene: Scene, request: Request) -> Action | Refusal:
    """The action that gives a hidden model back under all its names."""
    wanted, entries = spelled(request.model), scene.snapshot.store.entries
    kept = next((e for e in entries if wanted in (spelled(e.name), spelled(e.alias))), None)
    if kept is None:
        return _not_hidden(scene, request)
    if kept.how is Hidden.DELETED:
        return Refusal(f"{kept.name} was deleted, not hidden: `ollama pull {kept.name}` brings it back")
    names = tuple(e.name for e in entries if e is kept or _same_model(e, kept))
    title = " = ".join(names)
    return _action(scene, request, ActionKind.RESTORE, names, f"bring {title} back", kept.blob)


def _same_model(entry: QuarantineEntry, other: QuarantineEntry) -> bool:
    return entry.blob is not None and entry.blob == other.blob and entry.how is not Hidden.DELETED


def _not_hidden(scene: Scene, request: Request) -> Refusal:
    wanted = spelled(request.model)
    if any(wanted in map(spelled, entry.names) for entry in scene.snapshot.catalogue):
        return Refusal(f"{request.model} is not hidden: clients can ask for it", ok=True)
    names = [entry.name for entry in scene.snapshot.store.entries]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    listed = f"hidden are {', '.join(names[:LISTED])}{more}" if names else "no model is hidden"
    return Refusal(f"no model named {request.model!r} is hidden; {listed}")


def _action(
    scene: Scene,
    request: Request,
    kind: ActionKind,
    names: tuple[str, ...],
    what: str,
    blob: str | None,
    needs_bytes: int = 0,
) -> Action | Refusal:
    if any(a.kind in (ActionKind.QUARANTINE, ActionKind.RESTORE) and set(a.names) & set(names)
           for a in scene.state.in_flight):  # fmt: skip
        return Refusal(f"{request.model} is being hidden or brought back at this moment: ask again")
    return Action(
        id=0,
        kind=kind,
        rung=Rung.PLAYBOOK,
        deadline_at=scene.now + DEADLINE_SECONDS,
        blob=blob,
        model=names[0],
        names=names,
        needs_bytes=needs_bytes,
        reason=f"asked for by hand: {what}",
    )
