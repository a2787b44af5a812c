"""`bench` at work: each model judged, loaded, asked, unloaded; what was measured is kept, whatever comes."""

from __future__ import annotations

import time
from typing import Any

from ollama_guard.cli.benchunload import Unloader
from ollama_guard.cli.benchwatch import MemoryShort, Watch
from ollama_guard.cli.benchwork import ASK_SECONDS, Going, Judge, Plan, Steps, Work, answer_of, told
from ollama_guard.core.benchmark import TEXTS, Answer, Measured, Prompt, Round, Verdict
from ollama_guard.core.model import Activity, CatalogueEntry
from ollama_guard.core.units import count_text
from ollama_guard.drawing.interrupts import Interrupted
from ollama_guard.errors import GuardError, OllamaError
from ollama_guard.hands.adapters.ollama.timing import Client

# Seconds that the guard gets to measure a load (it waits for 1 s of standing still, or for 5 s), and to see
# that the model has gone: it rests for 3 s at most.
LEARN_SECONDS = 8.0
SETTLE_SECONDS = 5.0

_LOADED = frozenset(Activity)
_ONLY_EMBEDS = "does not support generate"


class Bencher:
    """Measures one model after the other.

    Args:
        client: who asks.
        unloader: who unloads.
        watch: what is seen meanwhile.
        judge: who says whether a model would fit now.
        steps: where progress is told.
        plan: how often, and how long answers may be.
    """

    def __init__(
        self,
        client: Client,
        unloader: Unloader,
        watch: Watch,
        judge: Judge,
        steps: Steps,
        plan: Plan,
    ) -> None:
        self._client, self._unloader, self._watch = client, unloader, watch
        self._judge, self._steps, self._plan = judge, steps, plan

    def measure(self, entry: CatalogueEntry, name: str) -> tuple[Measured, Exception | None]:
        """One model, and what ends the whole run with it (None: it goes on)."""
        row, refusal = self._judged(entry.blob)
        if row is None or refusal:
            return Measured(
                name, Verdict.REFUSED, refusal, blob=entry.blob, size_bytes=entry.size_bytes
            ), None
        known = (row["footprint_bytes"], row["footprint_measured"])
        work = Work(entry, name, entry.embeds, loaded_before=row["state"] == Activity.IDLE, footprint=known)
        if work.loaded_before:
            work.notes.append("was loaded before by somebody else: asked once, neither loaded nor unloaded")
        reason = ""
        end: Exception | None = None
        try:
            self._rounds(work)
        except OllamaError as problem:
            reason, end = str(problem), problem if self._unloader.is_away() else None
        except (MemoryShort, Interrupted) as problem:
            reason, end = "" if work.whole else told(problem), problem
        return work.result(reason), end

    def _judged(self, blob: str) -> tuple[dict[str, Any] | None, str]:
        """The guard's row, and why it may not be measured now ("" when it may)."""
        try:
            row = self._judge.ask(blob)
        except GuardError as problem:  # the socket is not for this user, or the file was broken meanwhile
            return None, f"whether it would fit is not known: {problem}"
        if row is None:
            return None, "whether it would fit is not known: the guard has not heard of it yet"
        if row["state"] in (Activity.LOADING, Activity.BUSY, Activity.STOPPING):
            idle = (
                "" if self._judge.guarded else ", and one look without a guard can't tell whether it is idle"
            )
            return row, f"it is loaded ({row['state']}){idle}: somebody may be using it; unload it first"
        if not row["fits"]:
            return row, str(row["reason"])
        return row, ""

    def _rounds(self, work: Work) -> None:
        for number in range(1 if work.loaded_before else self._plan.repeat):
            if number:
                row, refusal = self._judged(work.blob)
                if row is None or refusal or row["state"] in _LOADED:
                    why = refusal or "somebody has loaded it"
                    work.notes.append(f"only {count_text(number, 'round')}: {why}")
                    work.whole = True
                    return
            self._round(work, number + 1)
            work.whole = work.taken or work.loaded_before or number + 1 == self._plan.repeat
            self._settle(work)
            if work.taken:
                return

    def _round(self, work: Work, number: int) -> None:
        going = Going()
        self._watch.begin(work.blob)
        said = f"{work.name}, round {number}" if self._plan.repeat > 1 else work.name
        try:
            try:
                self._load_and_ask(work, going, said)
            finally:
                going.peak_bytes = self._peak(work, going)
            if not work.loaded_before:
                self._steps.at(f"{said}: unloading")
                going.unload_seconds = self._unloader.timed(work, going.runner)
                self._steps.done()
        except (OllamaError, MemoryShort, Interrupted) as problem:
            if not work.loaded_before:
                self._steps.at(f"{said}: unloading")
                spares = going.load_seconds is not None and not isinstance(problem, MemoryShort)
                self._unloader.let_go(work, spares_used=spares)
            raise
        finally:
            if going.load_seconds is not None or going.answers:
                work.rounds.append(self._finished(going))

    def _finished(self, going: Going) -> Round:
        return Round(
            load_seconds=going.load_seconds,
            unload_seconds=going.unload_seconds,
            runner_peak_bytes=going.peak_bytes,
            host_peak_bytes=self._watch.host_peak_bytes,
            host_least_available_bytes=self._watch.host_least_bytes,
            answers=tuple(going.answers),
        )

    def _peak(self, work: Work, going: Going) -> int | None:
        """Of a process that was there before, the kernel's own mark tells of more than this run."""
        if work.loaded_before:
            return self._watch.peak_bytes(going.runner)
        return self._watch.born_peak_bytes(going.runner)

    def _load_and_ask(self, work: Work, going: Going, said: str) -> None:
        if not work.loaded_before:
            self._steps.at(f"{said}: loading")
            going.load_seconds = self._load(work)
            self._steps.done()
        going.runner = self._watch.loaded()
        if going.runner is None and not work.rounds:
            work.notes.append("its process can't be seen from here, so its memory is not known")
        for prompt in Prompt:
            self._steps.at(f"{said}: {prompt}")
            answer = self._ask(work, prompt)
            self._steps.done()
            runner, before = self._watch.runner(), going.runner
            if before is not None and runner is not None and runner.key != before.key:
                going.runner = runner
                work.notes.append(f"Ollama had to load it anew for the prompt {prompt}, which does not count")
                continue
            going.answers.append(answer)
        self._learn(work)

    def _load(self, work: Work) -> float:
        try:
            return self._client.load(work.name, embeds=work.embeds)
        except OllamaError as problem:  # an old version that did not tell beforehand
            if work.embeds or _ONLY_EMBEDS not in str(problem):
                raise
        work.embeds = True
        return self._client.load(work.name, embeds=True)

    def _ask(self, work: Work, prompt: Prompt) -> Answer:
        if work.embeds:
            spoken = self._client.embed(work.name, TEXTS[prompt])
            return Answer(prompt, spoken.total_seconds, prompt_tokens=spoken.prompt_tokens)
        most = self._plan.tokens_most
        return answer_of(prompt, self._client.answer(work.name, TEXTS[prompt], most), most)

    def _learn(self, work: Work) -> None:
        """Let the guard measure the load; without one there is nobody who would."""
        end = time.monotonic() + (LEARN_SECONDS if self._judge.guarded else 0.0)
        while not work.footprint[1] and time.monotonic() < end:
            self._watch.watch(ASK_SECONDS)
            row, _ = self._judged(work.blob)
            if row is not None:
                work.footprint = (row["footprint_bytes"], row["footprint_measured"])

    def _settle(self, work: Work) -> None:
        """Until the guard has seen it go as well: what it judges next shall have this memory again."""
        stays = work.taken or work.loaded_before or not self._judge.guarded
        end = time.monotonic() + (0.0 if stays else SETTLE_SECONDS)
        while time.monotonic() < end:
            row, _ = self._judged(work.blob)
            if row is None or row["state"] not in _LOADED:
                return
            self._watch.watch(ASK_SECONDS)
