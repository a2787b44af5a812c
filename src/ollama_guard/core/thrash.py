"""Thrash: full pressure while what was just evicted is read back, and whether Ollama is in it.

The host's pressure and refaults are the whole machine's: a neighbour that thrashes in its own limit raises
both, and a restart of Ollama would help nobody. So it is Ollama's only where its own cgroup shows both, or a
runner is seen to wait for memory: in the kernel, or reading its pages from the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ollama_guard.core.model import CONTAINER, HOST
from ollama_guard.core.recovery import Symptoms
from ollama_guard.core.scene import Scene
from ollama_guard.core.units import seconds_text

# Pages a second read back after eviction that confirm thrash: 16 MiB/s, sixteen times what makes page cache
# count as "in use"; with pressure below `full_percent` it is only a busy disk.
THRASH_PAGES_PER_SECOND = 4096
# Major faults a second that show a runner in it: those pages at a MiB of readahead a fault, eight times the
# kernel's default. An idle runner has none.
FAULTS_PER_SECOND = 16
# Counts are compared over so long (seconds).
SPAN_SECONDS = 2.0
# A runner that was seen to wait for memory is in the thrash for so long (seconds), three spans: its state is
# looked at for a moment only, and between two answers it waits for nothing.
HURT_SECONDS = 6.0
# The state of a process that waits in the kernel, mostly for the disk.
WAITING_STATE = "D"


def review(scene: Scene, symptoms: Symptoms, *, stalled: bool) -> Symptoms:
    """The symptoms with how long pressure has been full, memory has thrashed, and Ollama has been in it."""
    limit, now = scene.policy.playbook.full_percent, scene.now
    places = [d for d in scene.snapshot.domains if d.name in (HOST, CONTAINER)]
    full = [place.name for place in places if (place.psi_full_avg10 or 0.0) >= limit]
    if not full:
        if symptoms.full_since_at is None and not symptoms.refaults:
            return symptoms
        return replace(_forgotten(symptoms), full_since_at=None)
    if stalled or symptoms.full_since_at is None:
        symptoms = replace(_forgotten(symptoms), full_since_at=now)
    symptoms = _counted(scene, symptoms)
    rising = symptoms.rising
    thrashes = HOST in rising or CONTAINER in rising
    own = CONTAINER in rising and CONTAINER in full
    waits = any(runner.reading.process_state == WAITING_STATE for runner in scene.runners)
    reads = any(name not in (HOST, CONTAINER) for name in rising)
    hurt_at = now if own or waits or reads else symptoms.hurt_at
    hurt = hurt_at is not None and now - hurt_at <= HURT_SECONDS
    return replace(
        symptoms,
        thrash_since_at=_since(symptoms.thrash_since_at, now, holds=thrashes),
        hurt_at=hurt_at,
        hurt_since_at=_since(symptoms.hurt_since_at, now, holds=hurt),
    )


def words(scene: Scene, symptoms: Symptoms) -> str:
    """That memory thrashes and Ollama is in it, for long enough; else ""."""
    hurt = symptoms.hurt_since_at
    if not _is_confirmed(scene, symptoms.thrash_since_at) or not _is_confirmed(scene, hurt):
        return ""
    return f"memory has been thrashing for {seconds_text(scene.now - (symptoms.thrash_since_at or 0.0))}"


def of_others(scene: Scene, symptoms: Symptoms) -> str:
    """That memory thrashes for somebody else, or "" where it does not, or Ollama may yet be in it."""
    since = symptoms.thrash_since_at
    if since is None or not _is_confirmed(scene, since) or symptoms.hurt_since_at is not None:
        return ""
    return (
        f"memory has been thrashing for {seconds_text(scene.now - since)}, but it is somebody else's: "
        "no runner of Ollama waits for memory. `ollama-guard status` names who holds the most"
    )


def _is_confirmed(scene: Scene, since: float | None) -> bool:
    return since is not None and scene.now - since >= scene.policy.playbook.full_seconds


def _since(since: float | None, now: float, *, holds: bool) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _forgotten(symptoms: Symptoms) -> Symptoms:
    return replace(symptoms, thrash_since_at=None, refaults={}, rising=(), hurt_at=None, hurt_since_at=None)


def _counted(scene: Scene, symptoms: Symptoms) -> Symptoms:
    """The symptoms with the counts that rose as fast as in thrash over the last whole span."""
    base, now = symptoms.refaults, scene.now
    seen: dict[str, tuple[float, int]] = {}
    rising = []
    for name, count, per_second in _counts(scene):
        at, before = base.get(name, (now, count))
        seconds = now - at
        over = seconds >= SPAN_SECONDS
        seen[name] = (now, count) if over else (at, before)
        if count - before >= per_second * seconds if over else name in symptoms.rising:
            rising.append(name)
    return replace(symptoms, refaults=seen, rising=tuple(rising))


def _counts(scene: Scene) -> Iterator[tuple[str, int, int]]:
    """Each running count that can be read: its name, the count, and how much a second is thrash."""
    for place in scene.snapshot.domains:
        if place.name in (HOST, CONTAINER) and place.refaults is not None:
            yield place.name, place.refaults, THRASH_PAGES_PER_SECOND
    for runner in scene.runners:
        faults = runner.reading.major_faults
        if faults is not None:
            yield f"runner {runner.reading.pid} {runner.reading.start_ticks}", faults, FAULTS_PER_SECOND
