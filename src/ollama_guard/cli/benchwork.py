"""What `bench` holds in its hands while it measures a model, and how that becomes a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ollama_guard.core.benchmark import Answer, End, Measured, Prompt, Round, Verdict, summed
from ollama_guard.core.model import CatalogueEntry, RunnerReading
from ollama_guard.drawing.interrupts import Interrupted
from ollama_guard.hands.adapters.ollama.timing import REPEATED, Spoken

# A load, the prompts, an unload.
STEPS_EACH = len(Prompt) + 2
# Seconds between two questions to the guard, or to Ollama where the model's process can't be seen.
ASK_SECONDS = 0.25


class Judge(Protocol):
    """Who says whether a model would fit now."""

    guarded: bool
    """Whether that is a running guard, which learns from loads; one that goes away meanwhile is none."""

    def ask(self, blob: str) -> dict[str, Any] | None:
        """The row of a blob (`core.installed`), None where there is none.

        Raises:
            GuardError: it can't be told.
        """


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
class Work:
    """A model under measurement. It is kept whatever comes.

    ``taken``: somebody else uses it by now, or it did not go: no more rounds. ``whole``: nothing is left.
    """

    entry: CatalogueEntry
    name: str
    embeds: bool
    loaded_before: bool
    footprint: tuple[int | None, bool | None]
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    taken: bool = False
    whole: bool = False

    @property
    def blob(self) -> str:
        """Its weights."""
        return self.entry.blob

    def result(self, reason: str) -> Measured:
        """What there is of it; ``reason`` says why that is not all."""
        if self.whole and not any(one.answers for one in self.rounds):
            reason = "not one answer was measured"
        measured = Measured(
            name=self.name,
            verdict=Verdict.MEASURED if not reason else Verdict.PARTLY if self.rounds else Verdict.FAILED,
            reason=reason,
            notes=tuple(self.notes),
            aliases=tuple(alias for alias in self.entry.names if alias != self.name),
            blob=self.entry.blob,
            size_bytes=self.entry.size_bytes,
            footprint_bytes=self.footprint[0],
            footprint_measured=self.footprint[1],
            rounds=tuple(self.rounds),
        )
        return summed(measured)


@dataclass(slots=True)
class Going:
    """A round under way."""

    load_seconds: float | None = None
    unload_seconds: float | None = None
    runner: RunnerReading | None = None
    peak_bytes: int | None = None
    answers: list[Answer] = field(default_factory=list)


def told(end: Exception) -> str:
    """Why a run ended, as a sentence."""
    return f"interrupted ({end})" if isinstance(end, Interrupted) else str(end)


def answer_of(prompt: Prompt, spoken: Spoken, tokens_most: int) -> Answer:
    """What was heard as an answer; Ollama's own count before that of the pieces."""
    tokens = spoken.pieces if spoken.tokens is None else spoken.tokens
    rate = spoken.pieces_per_second if spoken.tokens_per_second is None else spoken.tokens_per_second
    return Answer(
        prompt,
        spoken.total_seconds,
        _end(spoken.done_reason, at_most=tokens >= tokens_most),
        spoken.first_token_seconds,
        tokens,
        rate,
        spoken.prompt_tokens,
    )


def _end(done_reason: str | None, *, at_most: bool) -> End:
    if done_reason is None:
        return End.DEADLINE
    if done_reason == REPEATED:
        return End.REPEAT
    return End.LENGTH if at_most or done_reason == "length" else End.STOP
