"""Two runs of `bench`, figure by figure: how many times as much, and is that more than their spread?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ollama_guard.core.benchmark import Bench, Figure, Measured
from ollama_guard.core.policy import spelled
from ollama_guard.core.units import bytes_text


class Trend(StrEnum):
    """``within``: the rounds of both overlap, so it may be chance; ``unsure``: too few rounds to tell."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN = "within"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one model, median against median; ``ratio`` (new / old) is None where old is 0."""

    model: str
    figure: str
    old: float
    new: float
    ratio: float | None
    trend: Trend


@dataclass(frozen=True, slots=True)
class Comparison:
    """``caveats`` are sentences: what was not the same, and which models only one of the runs measured."""

    changes: tuple[Change, ...] = ()
    caveats: tuple[str, ...] = ()


def compared(old: Bench, new: Bench) -> Comparison:
    """Each figure that both runs have, models by name, in the new run's order."""
    before = {spelled(model.name): model for model in old.models if model.figures}
    now = {spelled(model.name): model for model in new.models if model.figures}
    caveats = list(_otherwise(old, new))
    changes: list[Change] = []
    for name, model in now.items():
        past = before.get(name)
        if past is None:
            caveats.append(f"{model.name} was not measured then")
            continue
        if past.blob != model.blob:
            caveats.append(f"{model.name} has other weights now")
        changes += _changes(past, model)
    caveats += [f"{model.name} is not measured now" for name, model in before.items() if name not in now]
    return Comparison(tuple(changes), tuple(caveats))


def _changes(old: Measured, new: Measured) -> Iterator[Change]:
    for name, figure in new.figures.items():
        past = old.figures.get(name)
        if past is not None:
            ratio = figure.median / past.median if past.median else None
            yield Change(new.name, name, past.median, figure.median, ratio, _trend(name, past, figure))


def _trend(name: str, old: Figure, new: Figure) -> Trend:
    """More tokens a second are better, more of anything else is worse. One round alone has no spread."""
    if old.count < 2 or new.count < 2:
        return Trend.UNSURE
    if new.least <= old.most and old.least <= new.most:
        return Trend.WITHIN
    return Trend.BETTER if (new.median > old.median) == is_rate(name) else Trend.WORSE


def is_rate(figure: str) -> bool:
    """Whether more of it is better."""
    return figure.endswith("_per_second")


def _otherwise(old: Bench, new: Bench) -> Iterator[str]:
    pairs = (
        ("the machine", _machine(old), _machine(new)),
        ("Ollama", old.ollama_version or "unknown", new.ollama_version or "unknown"),
        ("the longest answer", f"{old.tokens_most} tokens", f"{new.tokens_most} tokens"),
    )
    for what, then, now in pairs:
        if then != now:
            yield f"{what} was another then: {then}, now {now}"
    if old.ended:
        yield f"the old run ended early: {old.ended}"


def _machine(bench: Bench) -> str:
    memory = bench.machine.memory_bytes
    held = "memory not known" if memory is None else bytes_text(memory)
    return f"{bench.machine.cpus} CPUs, {held}, Linux {bench.machine.kernel}"
