"""Which names still mean the model that is to be hidden, looked up just before it is.

Between the decision and the act the owner may have pulled something else under the same name: a catalogue is
up to a minute old, and what a playbook wrote down may be from before the guard's own restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ollama_guard.core import naming
from ollama_guard.core.quarantine import Plan
from ollama_guard.hands.adapters.manifests import Manifest
from ollama_guard.ports import OllamaPort

Blobs = Mapping[tuple[str, str, str, str], str | None]
"""Every name that is there, without case, with its weights' blob; None where that is not known."""


def by_manifests(manifests: Iterable[Manifest]) -> Blobs:
    """As the store has it at this moment."""
    return {manifest.name.folded: manifest.blob for manifest in manifests}


def by_api(port: OllamaPort, seconds: float) -> Blobs:
    """As Ollama tells it at this moment; raises `OllamaError`."""
    catalogue = port.catalogue(seconds)
    known = {text: entry.blob for entry in catalogue for text in entry.names}
    told = {text: known.get(text) for text in port.digests(seconds)}
    names = ((naming.parse(text), blob) for text, blob in told.items())
    return {name.folded: blob for name, blob in names if name is not None}


def still_meant(plan: Plan, blobs: Blobs) -> tuple[Plan, tuple[str, ...]]:
    """The plan without the pairs that mean another model by now, and their names.

    What is nowhere stays in it: an earlier try may have moved or deleted it.
    """
    others = tuple(pair for pair in plan.pairs if _meant(pair.name, pair.alias, blobs) not in ("", plan.blob))
    kept = tuple(pair for pair in plan.pairs if pair not in others)
    return replace(plan, pairs=kept), tuple(pair.name for pair in others)


def _meant(name: str, alias: str, blobs: Blobs) -> str | None:
    """The blob of the first of these two that is there; "" if neither is."""
    for parsed in map(naming.parse, (name, alias)):
        if parsed is not None and parsed.folded in blobs:
            return blobs[parsed.folded]
    return ""
