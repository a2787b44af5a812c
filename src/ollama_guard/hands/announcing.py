"""Says in the log how servers are run, what can't be done to them, what would help; once, while it is new."""

from __future__ import annotations

from ollama_guard.core.runtime import RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.hands.journal import log


class Announcer:
    """Remembers what it said of each runtime; main loop only."""

    def __init__(self) -> None:
        self._said: dict[tuple[RuntimeKind, str], tuple[object, ...]] = {}

    def tell(self, reading: RuntimeReading) -> None:
        """Say it, unless nothing that a person would do something about has changed."""
        news = (reading.verbs, reading.cannot, reading.constrainable, reading.error)
        key = (reading.kind, reading.name)
        if self._said.get(key) == news or reading.state is RuntimeState.GONE:
            return
        self._said[key] = news
        kind, verbs = reading.kind.value, " ".join(reading.verbs)
        if reading.error:
            text = f"how Ollama is run can't be read ({kind} {reading.name}): {reading.reason}"
            log().warning(
                "runtime.failed", message=text, kind=kind, name=reading.name, verbs=verbs, error=reading.error
            )
            return
        parts = (f"Ollama is run by {_runner(reading)}", reading.cannot, reading.hint)
        text = "; ".join(part for part in parts if part)
        able = reading.constrainable
        log().notice(
            "runtime.found", message=text, kind=kind, name=reading.name, verbs=verbs, constrainable=able
        )


def _runner(reading: RuntimeReading) -> str:
    match reading.kind:
        case RuntimeKind.DOCKER:
            return f"Docker, as the container {reading.name}"
        case RuntimeKind.SYSTEMD:
            return f"systemd, as {reading.name}"
        case RuntimeKind.PROCESS:
            return "hand, as a bare process"
