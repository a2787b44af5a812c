"""Conditions: what is wrong, held for a transition so that it can't flap (kubelet's node conditions)."""

from __future__ import annotations

import math

from ollama_guard.core.model import HOST, Condition, Level, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.scene import heard_at
from ollama_guard.core.state import ConditionState, State
from ollama_guard.core.units import seconds_text


def blind_reasons(snapshot: Snapshot) -> tuple[str, ...]:
    """Why the guard can't judge now: memory, or whose a process is, can't be read."""
    host = next((d for d in snapshot.domains if d.name == HOST), None)
    if host is None:
        return ("the host's memory is not read", *snapshot.blind)
    if host.available_bytes is None or not host.capacity_bytes or host.capacity_bytes < 0:
        return (f"the host's memory can't be read ({host.reason or 'no value'})", *snapshot.blind)
    return snapshot.blind


def review(policy: Policy, state: State, snapshot: Snapshot) -> tuple[ConditionState, ...]:
    """The conditions after this tick: true ones, and those that were true within a transition."""
    true_now = {
        Condition.MEMORY_PRESSURE: _pressure(state),
        Condition.OLLAMA_UNRESPONSIVE: _unresponsive(policy, state, snapshot),
        Condition.FROZEN: state.symptoms.frozen,
        Condition.BLIND: "; ".join(blind_reasons(snapshot)),
    }
    held = {c.condition: c for c in state.conditions}
    result = []
    for condition, reason in true_now.items():
        old = held.get(condition)
        if reason:
            since = old.since_at if old else snapshot.now
            result.append(ConditionState(condition, since, snapshot.now, reason))
        elif old and snapshot.now - old.last_true_at < policy.transition_seconds:
            result.append(old)
    return tuple(result)


def _pressure(state: State) -> str:
    short = [
        f"{name} is at {domain.level.word}"
        for name, domain in state.domains.items()
        if domain.level > Level.OK
    ]
    return "; ".join(short)


def silence_due_at(policy: Policy, state: State, snapshot: Snapshot) -> float:
    """From when on Ollama's API counts as silent unless it answers; never while no server runs."""
    api = snapshot.api
    last = api.answered_at if api.answered_at is not None else state.started_at
    if not snapshot.servers or last is None:
        return math.inf
    return heard_at(state, last) + policy.ollama.unresponsive_after_seconds


def _unresponsive(policy: Policy, state: State, snapshot: Snapshot) -> str:
    """The API is silent though a server runs: says the age of the last answer."""
    api = snapshot.api
    last = api.answered_at if api.answered_at is not None else state.started_at
    if last is None or snapshot.now <= silence_due_at(policy, state, snapshot):
        return ""
    age = seconds_text(snapshot.now - last)
    said = (
        f"last answer {age} ago" if api.answered_at is not None else f"no answer in the {age} since the start"
    )
    error = f" ({api.error})" if api.error else ""
    away = "" if snapshot.hands_alive else f"; hands are away ({snapshot.hands_reason})"
    return f"Ollama's API is silent: {said}{error}{away}"
