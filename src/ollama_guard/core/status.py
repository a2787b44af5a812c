"""The contract's status document (design, section 7): keys are stable, bytes and seconds, never strings.

What is not known or not built yet is null, with its reason in ``unknown``, never invented. Times are
epoch seconds, for display.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_guard.core import cap, governor, sane
from ollama_guard.core.codec import to_plain
from ollama_guard.core.decide import mode_of
from ollama_guard.core.model import Decision, DomainReading, LoadedModel, Mode, OutcomeKind, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.pressure import LEVELS
from ollama_guard.core.recoverystatus import caps, hidden, playbook, runtime
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import State
from ollama_guard.core.tierstatus import largest_allowed, rows

NOT_LOOKED = "not looked for here: hands do so when somebody asks"


def view(policy: Policy, state: State, snapshot: Snapshot, guard: Mapping[str, Any]) -> dict[str, Any]:
    """The status document of one tick.

    Args:
        policy: the owner's.
        state: as `decide` returned it for this snapshot.
        snapshot: the tick's readings.
        guard: ``version pid pss_bytes cpu_seconds tick_seconds dropped`` as far as known; a missing key
            becomes null with a reason.

    A null's reason in ``unknown`` stands under its path or that of what it is in, with a domain's name
    or a model's pid as the step below a list: ``domains.host.slope_bytes_per_second``.
    """
    snapshot = sane.snapshot_of(snapshot, state.last_tick_at)
    unknown: dict[str, str] = {
        "consumers": NOT_LOOKED,
    }
    scene = Scene.of(policy, state, snapshot)
    if guard.get("version") is None:
        unknown["version"] = "the installed package does not say"
    document = {
        "version": guard.get("version"),
        "mode": str(mode_of(policy, state.durable, snapshot.now)),
        "level": state.level.word,
        "since": _wall(snapshot, state.level_since_at),
        "domains": [_domain(scene, reading, unknown) for reading in snapshot.domains],
        "ollama": _ollama(scene, unknown),
        "models": [_model(scene, runner, unknown) for runner in scene.runners],
        "quarantine": hidden(scene, unknown),
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
        "last_decision": _decision(state, snapshot, unknown),
        "playbook": playbook(scene, unknown),
        "tiers": rows(scene, unknown),
        "largest_allowed": largest_allowed(scene, unknown),
        "consumers": None,
        "guard": _guard(guard, unknown),
    }
    return {**document, "unknown": unknown}


def _wall(snapshot: Snapshot, at: float | None) -> float | None:
    return None if at is None else round(snapshot.wall - (snapshot.now - at), 3)


def _with_reasons(
    path: str, values: dict[str, Any], reasons: Mapping[str, str], unknown: dict[str, str]
) -> dict[str, Any]:
    """The values; each that is null gets its reason in ``unknown``."""
    unknown |= {f"{path}.{key}": reasons[key] for key, value in values.items() if value is None}
    return values


def _domain(scene: Scene, reading: DomainReading, unknown: dict[str, str]) -> dict[str, Any]:
    held = scene.domain(reading.name)
    available, capacity, slope = (
        reading.available_bytes,
        reading.capacity_bytes,
        held.slope_bytes_per_second,
    )
    readable = available is not None and bool(capacity)
    seconds = scene.seconds_to_exhaustion(reading) if readable else None
    unread = reading.reason or "no value"
    values = {
        "name": reading.name,
        "capacity_bytes": capacity,
        "available_bytes": available,
        "available_ratio": round(available / capacity, 4) if available is not None and capacity else None,
        "psi_some_avg10": reading.psi_some_avg10,
        "psi_full_avg10": reading.psi_full_avg10,
        "slope_bytes_per_second": None if slope is None else int(slope),
        "time_to_exhaustion_seconds": None if seconds is None else round(seconds, 3),
        "level": held.level.word,
        "thresholds": _thresholds(scene, reading) if capacity else None,
    }
    reasons = {
        "capacity_bytes": unread,
        "available_bytes": unread,
        "available_ratio": unread,
        "psi_some_avg10": "the kernel shows no pressure here",
        "psi_full_avg10": "the kernel shows no full pressure here",
        "slope_bytes_per_second": "too few readings yet" if readable else unread,
        "time_to_exhaustion_seconds": "available is not falling" if readable else unread,
        "thresholds": unread,
    }
    return _with_reasons(f"domains.{reading.name}", values, reasons, unknown)


def _thresholds(scene: Scene, reading: DomainReading) -> dict[str, int]:
    """Bytes of each level's threshold, for those who draw it."""
    return {level.word: scene.threshold(reading, level) for level in LEVELS}


def _ollama(scene: Scene, unknown: dict[str, str]) -> dict[str, Any]:
    api = scene.snapshot.api
    if api.version is None:
        unknown["ollama.version"] = api.error or "Ollama has not answered yet"
    if api.latency_seconds is None:
        unknown["ollama.latency_seconds"] = api.error or "no answer was timed yet"
    soft = cap.effective(scene.policy, scene.state)
    if soft is None:
        unknown["ollama.cap.soft"] = "no bound: as many as fit"
    return {
        "url": scene.policy.ollama.url,
        "alive": scene.api_usable(),
        "version": api.version,
        "latency_seconds": None if api.latency_seconds is None else round(api.latency_seconds, 4),
        "runtime": runtime(scene, unknown),
        "cap": {"soft": soft, **caps(scene, unknown)},
    }


def _model(scene: Scene, runner: Runner, unknown: dict[str, str]) -> dict[str, Any]:
    listed, reading = _listed(scene.snapshot, runner), runner.reading
    sized = listed is not None and listed.size_bytes is not None
    read = reading.anon_bytes is not None or reading.file_bytes is not None
    values = {
        "name": runner.names[0] if runner.names else None,
        "aliases": list(runner.names[1:]),
        "blob": reading.blob,
        "size_bytes": listed.size_bytes if listed and sized else runner.foreseen_bytes,
        "resident_bytes": reading.resident_bytes if read else None,
        "vram_bytes": listed.vram_bytes if listed else None,
        "state": str(runner.activity),
        "pid": reading.pid,
        "preference": str(runner.rule.preference),
        "expires_at": _wall(scene.snapshot, _ends_at(scene, runner, listed)),
    }
    unlisted = "Ollama lists the model without it" if listed else "Ollama does not list this model now"
    reasons = {
        "name": "no installed model is known to have this blob",
        "blob": "the runner's command line is not read yet",
        "size_bytes": unlisted,
        "resident_bytes": "the process's memory can't be read",
        "vram_bytes": unlisted,
        "expires_at": unlisted,
    }
    return _with_reasons(f"models.{reading.pid}", values, reasons, unknown)


def _listed(snapshot: Snapshot, runner: Runner) -> LoadedModel | None:
    blob = runner.reading.blob
    return next((m for m in snapshot.api.loaded if blob is not None and m.blob == blob), None)


def _ends_at(scene: Scene, runner: Runner, listed: LoadedModel | None) -> float | None:
    """When it goes unless it is asked for: by the governor's word where that holds, else by Ollama's."""
    enforced = mode_of(scene.policy, scene.state.durable, scene.now) is Mode.ENFORCE
    due = governor.due_at(scene, runner) if enforced and listed is not None else None
    expires, loaded_at = listed.expires_in_seconds if listed else None, scene.snapshot.api.loaded_at
    if due is not None or expires is None or loaded_at is None:
        return due
    return loaded_at + expires


def _decision(state: State, snapshot: Snapshot, unknown: dict[str, str]) -> dict[str, Any] | None:
    last = state.last_decision
    if last is None:
        unknown["last_decision"] = "nothing had to be done yet"
        return None
    ids = {action.id for action in last.actions}
    outcomes = [outcome for action, outcome in state.finished if action.id in ids and not last.would]
    values = {
        "at": _wall(snapshot, last.at),
        "action": str(last.rung),
        "reason": last.reason,
        "outcome": _outcome(last, [outcome.kind for outcome in outcomes]),
        "freed_bytes": sum(outcome.freed_bytes for outcome in outcomes) if outcomes else None,
    }
    nothing = "it was not to be done" if last.would else "there was nothing to do"
    reasons = {
        "outcome": nothing,
        "freed_bytes": "not ended yet" if last.actions and not last.would else nothing,
    }
    return _with_reasons("last_decision", values, reasons, unknown)


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
    values = {key: to_plain(guard.get(key)) for key in keys}
    return _with_reasons("guard", values, dict.fromkeys(keys, "not measured yet"), unknown)
