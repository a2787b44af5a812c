"""How `bench` lets go of a model that it loaded: timed, or after a failure; never one that somebody uses."""

from __future__ import annotations

import time

from ollama_guard.cli.benchwatch import Watch
from ollama_guard.cli.benchwork import ASK_SECONDS, Work
from ollama_guard.core.model import RunnerReading
from ollama_guard.core.units import seconds_text
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.hands.adapters.ollama.timing import KEEP_ALIVE_SECONDS

# Seconds for the request to unload, which only marks (facts 1.5), and until the process has ended: 0.1 s were
# seen, and with a discrete GPU Ollama itself waits for 5 s.
UNLOAD_SECONDS = 10.0
GONE_SECONDS = 30.0
# Seconds for the list of loaded models when a run has ended early; and those lost between the end of a
# request and the moment from which it is reckoned here.
LIST_SECONDS, LATE_SECONDS = 1.0, 0.3
# How often a model that may still load is asked to go: then an unload may miss it (facts 1.5).
UNLOAD_TRIES = 3


class Unloader:
    """Unloads by Ollama's API, which never cuts an answer (facts 1.5)."""

    def __init__(self, ollama: OllamaAdapter, watch: Watch) -> None:
        self._ollama, self._watch = ollama, watch

    def timed(self, work: Work, runner: RunnerReading | None) -> float | None:
        """The seconds from the request until the process had ended; None where it stays, which is noted.

        Raises:
            OllamaError: it can't be asked.
        """
        if runner is not None and not self._watch.lives(runner):
            work.notes.append("its process had ended before it was unloaded")
            return None
        if self._watch.in_use(runner):
            work.taken = True
            work.notes.append("somebody else uses it by now: not unloaded")
            return None
        began = time.monotonic()
        self._ollama.unload(work.name, UNLOAD_SECONDS)
        gone = self._gone(work.blob, runner)
        seconds = time.monotonic() - began
        if not gone:
            work.taken = True
            work.notes.append(f"was still loaded {seconds_text(GONE_SECONDS)} after it was asked to go")
            return None
        return seconds

    def let_go(self, work: Work, *, spares_used: bool) -> None:
        """Unload it after all else has failed; raises nothing, and takes no longer than its tries.

        ``spares_used``: not where somebody else uses it by now, which takes a second to see.
        """
        began = time.monotonic()
        if (
            spares_used
            and self._watch.works_on(self._watch.runner())
            and not self._was_last(work.blob, began)
        ):
            work.taken = True
            work.notes.append("somebody else uses it by now: not unloaded")
            return
        for _ in range(UNLOAD_TRIES):
            try:
                self._ollama.unload(work.name, UNLOAD_SECONDS)
            except OllamaError as problem:
                if problem.kind == "refused":
                    work.notes.append("can't be unloaded, since Ollama is away")
                    return
            runner = self._watch.runner()
            if runner is None or self._watch.gone_within(runner, GONE_SECONDS / UNLOAD_TRIES):
                return
        work.notes.append("is still loaded; `ollama-guard unload` or `ollama stop` unloads it")

    def _was_last(self, blob: str, given_up_at: float) -> bool:
        """Whether the request that was given up was the only one: the end that Ollama lists counts from it.

        It moves that only when the last request has ended (facts 1.4), while a slow model may work on for
        seconds, until it has read what it was asked.
        """
        asked_at = time.monotonic()
        try:
            loaded = self._ollama.loaded(LIST_SECONDS)
        except OllamaError:
            return False
        left = next((m.expires_in_seconds for m in loaded if m.blob == blob), None)
        return left is not None and abs(KEEP_ALIVE_SECONDS - left) <= asked_at - given_up_at + LATE_SECONDS

    def is_away(self) -> bool:
        """Whether nobody listens any more, so that there is nothing left to measure."""
        try:
            self._ollama.version(UNLOAD_SECONDS)
        except OllamaError as problem:
            return problem.kind in ("refused", "timeout")
        return False

    def _gone(self, blob: str, runner: RunnerReading | None) -> bool:
        if runner is not None:
            return self._watch.gone_within(runner, GONE_SECONDS)
        end = time.monotonic() + GONE_SECONDS
        while time.monotonic() < end:
            if all(model.blob != blob for model in self._ollama.loaded(UNLOAD_SECONDS)):
                return True
            time.sleep(ASK_SECONDS)
        return False
