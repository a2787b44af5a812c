"""What `bench` measured, as values: answers, rounds, the figures that they come to, the document of a run.

The document is what ``bench --json`` prints and ``bench --compare`` reads: bytes and seconds, never strings.
What could not be measured is null, and the model's ``notes`` or ``reason`` say why.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from types import MappingProxyType

from ollama_guard.core.codec import CodecError, from_plain
from ollama_guard.core.model import DomainReading, Level
from ollama_guard.core.policy import Policy
from ollama_guard.core.units import bytes_text

KIND = "ollama-guard bench"
# Goes up when a key changes its meaning, goes, or is new: an older program refuses what it can't understand.
SCHEMA = 1


class Prompt(StrEnum):
    """What is asked: each wants a longer answer than the one before it."""

    BASIC = "basic"
    CODE = "code"
    COMPLEX = "complex"


TEXTS: Mapping[Prompt, str] = MappingProxyType(
    {
        Prompt.BASIC: "What is the capital of France? Answer in one sentence.",
        Prompt.CODE: "Write a Python function that returns the n-th Fibonacci number without recursion, "
        "with type hints and a docstring. Then show two examples of its use.",
        Prompt.COMPLEX: "A farmer has to bring a wolf, a goat and a cabbage across a river in a boat that "
        "carries him and one of them. Left alone, the wolf eats the goat and the goat eats the cabbage. "
        "Explain step by step how he does it, say for each step who is on which bank, and then discuss "
        "whether there is a second solution and what would change with a boat for two of them.",
    }
)


class End(StrEnum):
    """How an answer ended: by itself, at the bound of tokens, cut at the deadline or for repeating itself."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"
    REPEAT = "repeat"


class Verdict(StrEnum):
    """What became of a model; ``partly``: ended early, what was measured until then counts."""

    MEASURED = "measured"
    PARTLY = "partly"
    REFUSED = "refused"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the client waited ``first_token_seconds`` for its first token, ``total_seconds`` for all.

    ``tokens_per_second`` is of the answer alone, as Ollama tells it (``eval_count / eval_duration``); of an
    answer that was cut, as its pieces came. An embedding has neither tokens nor a first one.
    """

    prompt: Prompt
    total_seconds: float
    end: End = End.STOP
    first_token_seconds: float | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One load, the prompts, one unload; ``loaded_before`` by somebody else: then neither load nor unload.

    ``runner_peak_bytes`` is all that the model's process held at its most: resident and swapped.
    ``host_peak_bytes`` is what of the machine was not available then, whoever held it.
    """

    load_seconds: float | None = None
    unload_seconds: float | None = None
    runner_peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    host_least_available_bytes: int | None = None
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all rounds: its median, and the least and the most that was seen."""

    median: float
    least: float
    most: float
    count: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One model. ``figures`` are the medians of ``rounds``; ``footprint_*`` is what the guard knows of it."""

    name: str
    verdict: Verdict
    reason: str = ""
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    blob: str | None = None
    size_bytes: int | None = None
    footprint_bytes: int | None = None
    footprint_measured: bool | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What figures hang on besides the model."""

    cpus: int
    memory_bytes: int | None
    kernel: str


@dataclass(frozen=True, slots=True)
class Bench:
    """A run. ``guarded``: a guard ran and learnt from the loads. ``ended`` says why it ended early."""

    version: str
    at_wall: float
    machine: Machine
    ollama_version: str
    guarded: bool
    repeat: int
    tokens_most: int
    models: tuple[Measured, ...] = ()
    ended: str = ""
    kind: str = KIND
    schema: int = SCHEMA


class NotABench(ValueError):
    """A text that is no document of a run; the sentence says why."""


def read(text: str) -> Bench:
    """The run that a document tells of.

    Raises:
        NotABench: broken, another program's, or of a newer version of this one.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise NotABench(f"it is not JSON: {problem}") from problem
    if not isinstance(plain, dict) or plain.get("kind") != KIND:
        raise NotABench("it is JSON, but not what `ollama-guard bench --json` prints")
    schema = plain.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NotABench(f"it is of a newer version: its schema is {schema}, this program knows {SCHEMA}")
    plain.pop("comparison", None)  # with a run before that
    try:
        return from_plain(Bench, plain)
    except CodecError as problem:
        raise NotABench(f"it is damaged: {problem}") from problem


def summed(measured: Measured) -> Measured:
    """The same with the figures of its rounds."""
    values: dict[str, list[float]] = defaultdict(list)
    for one in measured.rounds:
        for name, value in _values(one):
            if value is not None:
                values[name].append(value)
    figures = {name: Figure(median(seen), min(seen), max(seen), len(seen)) for name, seen in values.items()}
    return replace(measured, figures=figures)


def _values(one: Round) -> Iterator[tuple[str, float | None]]:
    yield "load_seconds", one.load_seconds
    for answer in one.answers:
        yield f"{answer.prompt}.first_token_seconds", answer.first_token_seconds
        yield f"{answer.prompt}.tokens_per_second", answer.tokens_per_second
        yield f"{answer.prompt}.total_seconds", answer.total_seconds
    yield "runner_peak_bytes", one.runner_peak_bytes
    yield "host_peak_bytes", one.host_peak_bytes
    yield "unload_seconds", one.unload_seconds


def why_stop(policy: Policy, domains: tuple[DomainReading, ...], *, others_loaded: bool) -> str:
    """Why no more may be asked of this machine now; "" while there is room.

    Below hard always. Below soft already while other models are loaded: the guard would soon unload those
    that are idle, and a benchmark is no reason to take a model from somebody. Memory that can't be read is no
    room.
    """
    worst = Level.SOFT if others_loaded else Level.HARD
    readable = [d for d in domains if d.available_bytes is not None and d.capacity_bytes]
    if not readable:
        return "memory can't be read"
    for domain in readable:
        available, capacity = domain.available_bytes or 0, domain.capacity_bytes or 0
        limit = policy.thresholds_of(domain.name).bytes_of(worst, capacity)
        if available < limit:
            left = f"{domain.name} has {bytes_text(available)} available, less than {worst.word}"
            why = ", and other models are loaded" if worst is Level.SOFT else ""
            return f"memory ran short: {left} ({bytes_text(limit)}){why}"
    return ""
