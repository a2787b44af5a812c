"""VERIFY: the server tells its version and, if a model is named, answers one token, within the deadline."""

from __future__ import annotations

import time

from ollama_guard.core.model import Action
from ollama_guard.errors import OllamaError
from ollama_guard.hands.lanes import Clock, NeverStarted
from ollama_guard.ports import OllamaPort

# Seconds between two knocks at a server that has just been started: its port comes within 2 s, and it serves
# once it has looked for GPUs (facts 1.1).
_KNOCK_SECONDS = 0.5
# Seconds for one knock: a request to a server that is starting hangs until it serves.
_PATIENCE_SECONDS = 5.0


def verify(action: Action, port: OllamaPort, clock: Clock, deadline_at: float) -> str:
    """Prove that Ollama serves; returns the proof in words.

    Raises:
        OllamaError: it doesn't, or not in time; the sentence says which step failed.
        NeverStarted: its deadline had passed before anything was asked.
    """
    if clock() >= deadline_at:
        raise NeverStarted("its deadline passed before it was sent")
    version = _version(port, clock, deadline_at)
    model = action.model or next(iter(action.names), None)
    if model is None:
        return f"Ollama {version} answers"
    since = clock()
    port.generate(model, max(0.0, deadline_at - since))
    return f"Ollama {version} answers, and {model} gave its first token after {clock() - since:.1f} s"


def _version(port: OllamaPort, clock: Clock, deadline_at: float) -> str:
    """Knock until it answers; what is said last is the reason when it never does."""
    while True:
        left = deadline_at - clock()
        try:
            return port.version(max(0.0, min(left, _PATIENCE_SECONDS)))
        except OllamaError:
            if deadline_at - clock() <= _KNOCK_SECONDS:
                raise
        time.sleep(_KNOCK_SECONDS)
