"""Makes the calls that `core.quarantine` asks for, one after the other, within one deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ollama_guard.core.quarantine import Answer, Call, End, Known, Plan, Verb, heard, next_step
from ollama_guard.errors import GuardError, OllamaError
from ollama_guard.hands.lanes import Clock
from ollama_guard.ports import OllamaPort

# Seconds until it is looked whether an unload is done, doubling: it takes 0.1 s here, and 0.15 s a GiB.
_FIRST_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """``deadline_at`` bounds the whole (boottime seconds), ``call_seconds`` each call."""

    deadline_at: float
    call_seconds: float


Save = Callable[[str, str], None]
"""Writes down how a hidden name (alias, name) can be got back; raises `GuardError`."""


def carry_out(
    plan: Plan, port: OllamaPort, limits: Limits, clock: Clock, save: Save, known: Known | None = None
) -> End:
    """Make calls until the plan is at its end."""
    known = known or Known()
    while True:
        step = next_step(plan, known)
        if isinstance(step, End):
            return step
        known = heard(plan, known, step, _answer(step, known, port, limits, clock, save))


def _answer(call: Call, known: Known, port: OllamaPort, limits: Limits, clock: Clock, save: Save) -> Answer:
    left = limits.deadline_at - clock()
    if left <= 0:
        return Answer(error="its deadline passed before it was done; a repeat goes on from there")
    seconds = min(left, limits.call_seconds)
    try:
        match call.verb:
            case Verb.LIST:
                return Answer(digests=port.digests(seconds))
            case Verb.COPY:
                port.copy(call.name, call.other, seconds)
            case Verb.DELETE:
                port.delete(call.name, seconds)
            case Verb.UNLOAD:
                port.unload(call.name, seconds)
            case Verb.LOADED:
                time.sleep(min(_FIRST_LOOK_SECONDS * 2 ** (known.unloads - 1), left / 2))
                models = port.loaded(min(limits.call_seconds, max(0.1, limits.deadline_at - clock())))
                return Answer(loaded=frozenset(text for m in models for text in (m.name, m.blob) if text))
            case Verb.SAVE:
                save(call.name, call.other)
    except OllamaError as problem:
        return Answer(error=str(problem), missing=problem.kind == "not_found")
    except GuardError as problem:
        return Answer(error=str(problem))
    return Answer()


def names_now(port: OllamaPort, seconds: float) -> tuple[str, ...] | None:
    """Every local name that Ollama lists now, None when it doesn't answer."""
    try:
        return tuple(port.digests(seconds))
    except OllamaError:
        return None
