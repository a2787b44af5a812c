"""The contract's status document (design, section 7): keys are stable, bytes and seconds, never strings.

What is not known or not built yet is null, with its reason in ``unknown``, never invented. Times are
epoch seconds, for display.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_guard.core import cap
from ollama_guard.core.codec import to_plain
from ollama_guard.core.decide import mode_of
from ollama_guard.core.model import Decision, DomainReading, LoadedModel, OutcomeKind, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.runners import Runner, census
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import State

NOT_BUILT = "not built yet"


def view(policy: Policy, state: State, snapshot: Snapshot, guard: Mapping[str, Any]) -> dict[str, Any]:
    """The status document of one tick.

    Args:
        policy: the owner's.
        state: as `decide` returned it for this snapshot.
        snapshot: the tick's readings.
        guard: ``version pid pss_bytes cpu_seconds tick_seconds dropped`` as far as known; a missing key
            becomes null with a reason.
    """
    unknown: dict[str, str] = {
        "ollama.runtime": NOT_BUILT,
        "ollama.cap.hard": NOT_BUILT,
        "ollama.cap.pending": NOT_BUILT,
        "playbook": NOT_BUILT,
        "consumers": NOT_BUILT,
        "quarantine": NOT_BUILT,
    }
    scene = Scene(policy, state, snapshot, census(policy, state, snapshot))
    document = {
        "version": guard.get("version"),
        "mode": str(mode_of(policy, state.durable, snapshot.now)),
        "level": state.level.word,
        "since": _wall(snapshot, state.level_since_at),
        "domains": [_domain(scene, reading, unknown) for reading in snapshot.domains],
        "ollama": _ollama(scene, unknown),
        "models": [_model(scene, runner) for runner in scene.runners],
        "quarantine": None,
        "condemned": [
            {
                "blob": record.blob,
                "names": list(record.names),
                "until": _wall(snapshot, record.until_at),
                "needs_bytes": record.needs_bytes,
                "kills": record.kills,
            }
            for record in state.durable.condemned
        ],
        "conditions": [
            {
                "condition": str(held.condition),
                "since": _wall(snapshot, held.since_at),
                "true_now": held.last_true_at >= snapshot.now,
                "reason": held.reason,
            }
            for held in state.conditions
        ],
        "last_decision": _decision(state, snapshot),
        "playbook": None,
        "consumers": None,
        "guard": _guard(guard, unknown),
    }
    return {**document, "unknown": unknown}


def _wall(snapshot: Snapshot, at: float | None) -> float | None:
    return None if at is None else round(snapshot.wall - (snapshot.now - at), 3)


def _domain(scene: Scene, reading: DomainReading, unknown: dict[str, str]) -> dict[str, Any]:
    held = scene.domain(reading.name)
    available, capacity = reading.available_bytes, reading.capacity_bytes
    readable = available is not None and bool(capacity)
    if not readable:
        unknown[f"domains.{reading.name}.available_bytes"] = reading.reason or "no value"
    if reading.psi_some_avg10 is None:
        unknown[f"domains.{reading.name}.psi"] = "the kernel shows no pressure here"
    if held.slope_bytes_per_second is None:
        unknown[f"domains.{reading.name}.slope"] = "too few readings yet"
    seconds = scene.seconds_to_exhaustion(reading) if readable else None
    if seconds is None and held.slope_bytes_per_second is not None:
        unknown[f"domains.{reading.name}.time_to_exhaustion_seconds"] = "available is not falling"
    return {
        "name": reading.name,
        "capacity_bytes": capacity,
        "available_bytes": available,
        "available_ratio": round(available / capacity, 4) if available is not None and capacity else None,
        "psi_some_avg10": reading.psi_some_avg10,
        "psi_full_avg10": reading.psi_full_avg10,
        "slope_bytes_per_second": None
        if held.slope_bytes_per_second is None
        else int(held.slope_bytes_per_second),
        "time_to_exhaustion_seconds": None if seconds is None else round(seconds, 3),
        "level": held.level.word,
    }


def _ollama(scene: Scene, unknown: dict[str, str]) -> dict[str, Any]:
    api = scene.snapshot.api
    if api.version is None:
        unknown["ollama.version"] = api.error or "Ollama has not answered yet"
    soft = cap.effective(scene.policy, scene.state)
    if soft is None:
        unknown["ollama.cap.soft"] = "no bound: as many as fit"
    return {
        "url": scene.policy.ollama.url,
        "alive": scene.api_usable(),
        "version": api.version,
        "latency_seconds": None if api.latency_seconds is None else round(api.latency_seconds, 4),
        "runtime": {"kind": None, "name": None},
        "cap": {"soft": soft, "hard": None, "pending": None},
    }


def _model(scene: Scene, runner: Runner) -> dict[str, Any]:
    listed = _listed(scene.snapshot, runner)
    expires = None if listed is None or listed.expires_in_seconds is None else listed.expires_in_seconds
    loaded_at = scene.snapshot.api.loaded_at
    return {
        "name": runner.names[0] if runner.names else None,
        "aliases": list(runner.names[1:]),
        "blob": runner.reading.blob,
        "size_bytes": listed.size_bytes if listed else runner.foreseen_bytes,
        "resident_bytes": runner.reading.resident_bytes,
        "vram_bytes": listed.vram_bytes if listed else None,
        "state": str(runner.activity),
        "pid": runner.reading.pid,
        "preference": str(runner.rule.preference),
        "expires_at": None
        if expires is None or loaded_at is None
        else _wall(scene.snapshot, loaded_at + expires),
    }


def _listed(snapshot: Snapshot, runner: Runner) -> LoadedModel | None:
    blob = runner.reading.blob
    return next((m for m in snapshot.api.loaded if blob is not None and m.blob == blob), None)


def _decision(state: State, snapshot: Snapshot) -> dict[str, Any] | None:
    last = state.last_decision
    if last is None:
        return None
    ids = {action.id for action in last.actions}
    outcomes = [outcome for action, outcome in state.finished if action.id in ids and not last.would]
    return {
        "at": _wall(snapshot, last.at),
        "action": str(last.rung),
        "reason": last.reason,
        "outcome": _outcome(last, [outcome.kind for outcome in outcomes]),
        "freed_bytes": sum(outcome.freed_bytes for outcome in outcomes) if outcomes else None,
    }


def _outcome(last: Decision, kinds: list[OutcomeKind]) -> str | None:
    """The worst outcome of a decision's actions; ``pending`` until all have ended."""
    if last.would or not last.actions:
        return None
    if len(kinds) < len(last.actions):
        return "pending"
    worst = (OutcomeKind.FAILED, OutcomeKind.SKIPPED, OutcomeKind.DONE)
    return str(next(kind for kind in worst if kind in kinds))


def _guard(guard: Mapping[str, Any], unknown: dict[str, str]) -> dict[str, Any]:
    keys = ("pid", "pss_bytes", "cpu_seconds", "tick_seconds", "dropped")
    for key in keys:
        if guard.get(key) is None:
            unknown[f"guard.{key}"] = "not measured yet"
    return {key: to_plain(guard.get(key)) for key in keys}
