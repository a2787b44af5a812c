"""`bench` at work: each model judged, loaded, asked, unloaded; what was measured is kept, whatever comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ollama_guard.cli.benchwatch import MemoryShort, Watch
from ollama_guard.core.benchmark import TEXTS, Answer, End, Measured, Prompt, Round, Verdict, summed
from ollama_guard.core.model import Activity, CatalogueEntry, RunnerReading
from ollama_guard.core.units import count_text, seconds_text
from ollama_guard.drawing.interrupts import Interrupted
from ollama_guard.errors import OllamaError, ServiceUnavailable
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.hands.adapters.ollama.timing import Client, Spoken

# Seconds for the request to unload, which only marks (facts 1.5), and until the process has ended: 0.1 s were
# seen, and with a discrete GPU Ollama itself waits for 5 s.
UNLOAD_SECONDS = 10.0
GONE_SECONDS = 30.0
# How often a model that may still load is asked to go: then an unload may miss it (facts 1.5).
UNLOAD_TRIES = 3
# Seconds that the guard gets to measure a load (it waits for 1 s of standing still, or for 5 s), and to see
# that the model has gone: it rests for 3 s at most.
LEARN_SECONDS = 8.0
SETTLE_SECONDS = 5.0
# Seconds between two questions to the guard, or to Ollama where the model's process can't be seen.
ASK_SECONDS = 0.25
# A load, the prompts, an unload.
STEPS_EACH = len(Prompt) + 2

Judge = Callable[[str], dict[str, Any] | None]
_UNLOADED = "unloaded"
_ONLY_EMBEDS = "does not support generate"


class Steps(Protocol):
    """Where it is told how far it is."""

    def at(self, text: str) -> None:
        """A step begins."""

    def done(self) -> None:
        """A step is over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with every model."""

    repeat: int
    tokens_most: int


@dataclass(slots=True)
class _Work:
    """A model under measurement. It is kept whatever comes."""

    name: str
    blob: str
    embeds: bool
    loaded_before: bool
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    footprint: tuple[int | None, bool | None] = (None, None)
    taken: bool = False


@dataclass(slots=True)
class _Going:
    """A round under way."""

    load_seconds: float | None = None
    unload_seconds: float | None = None
    runner: RunnerReading | None = None
    peak_bytes: int | None = None
    answers: list[Answer] = field(default_factory=list)


class Bencher:
    """Measures one model after the other.

    Args:
        ollama: for what is no measurement.
        client: who asks.
        watch: what is seen meanwhile.
        judge: the guard's row for a blob now (`core.installed`), None where it knows none.
        steps: where progress is told.
        plan: how often, and how long answers may be.
        guarded: whether a guard is running, which learns from loads.
    """

    def __init__(
        self,
        ollama: OllamaAdapter,
        client: Client,
        watch: Watch,
        judge: Judge,
        steps: Steps,
        plan: Plan,
        *,
        guarded: bool,
    ) -> None:
        self._ollama, self._client, self._watch = ollama, client, watch
        self._judge, self._steps, self._plan, self._guarded = judge, steps, plan, guarded

    def measure(self, entry: CatalogueEntry, name: str) -> tuple[Measured, Exception | None]:
        """One model, and what ends the whole run with it (None: it goes on)."""
        row, refusal = self._judged(entry.blob)
        if row is None or refusal:
            return Measured(
                name, Verdict.REFUSED, refusal, blob=entry.blob, size_bytes=entry.size_bytes
            ), None
        work = _Work(name, entry.blob, entry.embeds, loaded_before=row["state"] == Activity.IDLE)
        work.footprint = (row["footprint_bytes"], row["footprint_measured"])
        if work.loaded_before:
            work.notes.append("was loaded before by somebody else: asked once, neither loaded nor unloaded")
        reason = ""
        end: Exception | None = None
        try:
            self._rounds(work)
        except OllamaError as problem:
            reason, end = str(problem), problem if problem.kind == "refused" else None
        except (MemoryShort, Interrupted) as problem:
            reason, end = str(problem), problem
        if not reason and not any(one.answers for one in work.rounds):
            reason = "not one answer was measured"
        verdict = Verdict.MEASURED if not reason else Verdict.PARTLY if work.rounds else Verdict.FAILED
        measured = Measured(
            name=name,
            verdict=verdict,
            reason=reason,
            notes=tuple(work.notes),
            aliases=tuple(alias for alias in entry.names if alias != name),
            blob=entry.blob,
            size_bytes=entry.size_bytes,
            footprint_bytes=work.footprint[0],
            footprint_measured=work.footprint[1],
            rounds=tuple(work.rounds),
        )
        return summed(measured), end

    def _judged(self, blob: str) -> tuple[dict[str, Any] | None, str]:
        """The guard's row, and why it may not be measured now ("" when it may)."""
        try:
            row = self._judge(blob)
        except ServiceUnavailable as problem:
            return None, f"whether it would fit is not known: {problem}"
        if row is None:
            return None, "whether it would fit is not known: the guard has not heard of it yet"
        if row["state"] in (Activity.LOADING, Activity.BUSY, Activity.STOPPING):
            idle = "" if self._guarded else ", and one look without a guard can't tell whether it is idle"
            return row, f"it is loaded ({row['state']}){idle}: somebody may be using it; unload it first"
        if not row["fits"]:
            return row, str(row["reason"])
        return row, ""

    def _rounds(self, work: _Work) -> None:
        for number in range(1 if work.loaded_before else self._plan.repeat):
            if number:
                row, refusal = self._judged(work.blob)
                if row is None or refusal or row["state"] != _UNLOADED:
                    why = refusal or "somebody has loaded it"
                    work.notes.append(f"only {count_text(number, 'round')}: {why}")
                    return
            self._round(work, number + 1)
            if work.taken:
                return

    def _round(self, work: _Work, number: int) -> None:
        going = _Going()
        self._watch.begin(work.blob)
        said = f"{work.name}, round {number}" if self._plan.repeat > 1 else work.name
        try:
            try:
                self._load_and_ask(work, going, said)
            finally:
                going.peak_bytes = self._peak(work, going)
            if not work.loaded_before:
                going.unload_seconds = self._unload(work, going, said)
        except (OllamaError, MemoryShort, Interrupted):
            if not work.loaded_before:
                self._steps.at(f"{said}: unloading")
                self._let_go(work)
            raise
        finally:
            if going.load_seconds is not None or going.answers:
                work.rounds.append(self._finished(going))

    def _finished(self, going: _Going) -> Round:
        return Round(
            load_seconds=going.load_seconds,
            unload_seconds=going.unload_seconds,
            runner_peak_bytes=going.peak_bytes,
            host_peak_bytes=self._watch.host_peak_bytes,
            host_least_available_bytes=self._watch.host_least_bytes,
            answers=tuple(going.answers),
        )

    def _peak(self, work: _Work, going: _Going) -> int | None:
        """Of a process that was there before, the kernel's own mark tells of more than this run."""
        if work.loaded_before:
            return self._watch.peak_bytes(going.runner)
        return self._watch.born_peak_bytes(going.runner)

    def _load_and_ask(self, work: _Work, going: _Going, said: str) -> None:
        if not work.loaded_before:
            self._steps.at(f"{said}: loading")
            going.load_seconds = self._load(work)
            self._steps.done()
        going.runner = self._watch.runner()
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

    def _load(self, work: _Work) -> float:
        try:
            return self._client.load(work.name, embeds=work.embeds)
        except OllamaError as problem:  # an old version that did not tell beforehand
            if work.embeds or _ONLY_EMBEDS not in str(problem):
                raise
        work.embeds = True
        return self._client.load(work.name, embeds=True)

    def _ask(self, work: _Work, prompt: Prompt) -> Answer:
        keep = not work.loaded_before
        if work.embeds:
            spoken = self._client.embed(work.name, TEXTS[prompt], keep=keep)
            return Answer(prompt, spoken.total_seconds, prompt_tokens=spoken.prompt_tokens)
        most = self._plan.tokens_most
        return answer_of(prompt, self._client.answer(work.name, TEXTS[prompt], most, keep=keep), most)

    def _learn(self, work: _Work) -> None:
        """Let the guard measure the load; without one there is nobody who would."""
        end = time.monotonic() + (LEARN_SECONDS if self._guarded else 0.0)
        while not work.footprint[1] and time.monotonic() < end:
            self._watch.watch(ASK_SECONDS)
            row, _ = self._judged(work.blob)
            if row is not None:
                work.footprint = (row["footprint_bytes"], row["footprint_measured"])

    def _unload(self, work: _Work, going: _Going, said: str) -> float | None:
        """The seconds from the request until the process had ended; None where it may not be asked for."""
        self._steps.at(f"{said}: unloading")
        if self._watch.in_use(going.runner):
            work.taken = True
            work.notes.append("somebody else uses it by now: not unloaded")
            return None
        began = time.monotonic()
        self._ollama.unload(work.name, UNLOAD_SECONDS)
        gone = self._gone(work, going.runner)
        seconds = time.monotonic() - began
        if not gone:
            work.taken = True
            work.notes.append(f"was still loaded {seconds_text(GONE_SECONDS)} after it was asked to go")
            return None
        self._steps.done()
        self._settle(work)
        return seconds

    def _gone(self, work: _Work, runner: RunnerReading | None) -> bool:
        if runner is not None:
            return self._watch.gone_within(runner, GONE_SECONDS)
        end = time.monotonic() + GONE_SECONDS
        while time.monotonic() < end:
            if all(model.blob != work.blob for model in self._ollama.loaded(UNLOAD_SECONDS)):
                return True
            time.sleep(ASK_SECONDS)
        return False

    def _settle(self, work: _Work) -> None:
        """Until the guard has seen it as well: what it judges next shall have this memory again."""
        end = time.monotonic() + (SETTLE_SECONDS if self._guarded else 0.0)
        while time.monotonic() < end:
            row, _ = self._judged(work.blob)
            if row is None or row["state"] == _UNLOADED:
                return
            self._watch.watch(ASK_SECONDS)

    def _let_go(self, work: _Work) -> None:
        """Unload what was loaded here after all else has failed; an answer to somebody else is not cut."""
        for _ in range(UNLOAD_TRIES):
            with contextlib.suppress(OllamaError):
                self._ollama.unload(work.name, UNLOAD_SECONDS)
            runner = self._watch.runner()
            if runner is None or self._watch.gone_within(runner, GONE_SECONDS / UNLOAD_TRIES):
                return
        work.notes.append("is still loaded; `ollama-guard unload` or `ollama stop` unloads it")


def answer_of(prompt: Prompt, spoken: Spoken, tokens_most: int) -> Answer:
    """What was heard as an answer; Ollama's own count before that of the pieces."""
    cut = spoken.done_reason is None
    tokens = spoken.pieces if spoken.tokens is None else spoken.tokens
    at_most = spoken.done_reason == "length" or tokens >= tokens_most
    rate = spoken.pieces_per_second if spoken.tokens_per_second is None else spoken.tokens_per_second
    return Answer(
        prompt,
        spoken.total_seconds,
        End.DEADLINE if cut else End.LENGTH if at_most else End.STOP,
        spoken.first_token_seconds,
        tokens,
        rate,
        spoken.prompt_tokens,
    )
