"""Which of LiteLLM's models serves a request, given what the guard allows: values only.

A deployment is a row of LiteLLM's ``model_list``: ``model_name`` is what clients ask for,
``litellm_params.model`` what it is served by, here a model of Ollama.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Seconds: the ladder goes up again after a minute of quiet, so it hardly pays to come back sooner than this.
RETRY_AFTER_SECONDS = 10

# What a client gets; and a status after which LiteLLM makes no retries (Too Early), which no client gets.
UNAVAILABLE, NOT_TO_BE_RETRIED = 503, 425

# How LiteLLM's name of a model begins where it is one of Ollama's, by its native and its OpenAI API.
PROVIDERS = ("ollama_chat/", "ollama/", "openai/")

Deployment = Mapping[str, Any]
# What LiteLLM may fall back to: a name in ``model_list``, or a mapping with that as its ``model``.
Target = str | Mapping[str, Any]


class NoTierAllowed(Exception):
    """No model may be loaded now; LiteLLM turns it into this status and these headers."""

    def __init__(self, reason: str, which: str) -> None:
        why = f"{reason or 'memory is short'} (ollama-guard {which})"
        super().__init__(f"no model can be loaded now: {why}; try again in {RETRY_AFTER_SECONDS} s")
        self.message = str(self)
        self.status_code = UNAVAILABLE
        self.headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}


class AttemptRefused(NoTierAllowed):
    """The same of one model at one attempt; by its status LiteLLM falls back at once, without retries."""

    def __init__(self, reason: str, which: str) -> None:
        super().__init__(reason, which)
        self.status_code = NOT_TO_BE_RETRIED

    def told(self) -> None:
        """It becomes a client's answer, without what LiteLLM has added of its fallbacks."""
        self.status_code, self.message = UNAVAILABLE, str(self)


@dataclass(frozen=True, slots=True)
class Rung:
    """One tier as the guard tells it, small to large; what is not known to be forbidden is allowed."""

    name: str
    model: str
    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: LiteLLM's model names, and the tier that is first."""

    group: str
    tier: str
    fallbacks: tuple[Target, ...]


def ladder_of(document: object) -> tuple[Rung, ...]:
    """The tiers of a status document; () where it tells of none that can be understood."""
    rows = document.get("tiers") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        return ()
    rungs = [
        Rung(
            str(row["name"]), str(row["model"]), row.get("allowed") is not False, str(row.get("reason") or "")
        )
        for row in rows
        if isinstance(row, dict) and {"name", "model"} <= set(row)
    ]
    return tuple(rungs) if len(rungs) == len(rows) else ()


def ollama_name(litellm_model: object) -> str:
    """``ollama_chat/smollm:135m`` as Ollama lists it: without the provider, with its tag."""
    name = litellm_model if isinstance(litellm_model, str) else ""
    provider = next((known for known in PROVIDERS if name.startswith(known)), "")
    name = name.removeprefix(provider).lower()
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def model_of(deployment: object) -> str:
    """The name, as Ollama lists it, of what a row of LiteLLM's ``model_list`` is served by."""
    return ollama_name(_parameters(deployment).get("model"))


def bases_in(text: str) -> frozenset[str]:
    """Addresses of Ollama, with commas between them, as `is_governed` compares them."""
    return frozenset(_base(each) for each in text.split(",") if each.strip())


def is_governed(deployment: object, bases: frozenset[str]) -> bool:
    """Whether a row leads to one of these addresses, which is to say to the guard's Ollama; none is any."""
    parameters = _parameters(deployment)
    return not bases or _base(str(parameters.get("api_base") or parameters.get("base_url") or "")) in bases


def forbidden_models(ladder: Iterable[Rung]) -> dict[str, Rung]:
    """The models that no tier may use now, by their names in Ollama; two tiers may share one."""
    rungs = list(ladder)
    allowed = {ollama_name(rung.model) for rung in rungs if rung.allowed}
    return {name: rung for rung in rungs if (name := ollama_name(rung.model)) not in allowed}


def tier_of(model: str, ladder: Iterable[Rung], first: str) -> str:
    """The tier of a model of Ollama, this one before others of the same model; "" where it is none."""
    names = [rung.name for rung in ladder if ollama_name(rung.model) == model]
    return first if first in names else next(iter(names), "")


def own_fallbacks(asked: str, fallbacks: object) -> tuple[Target, ...]:
    """What LiteLLM would try after ``asked``, by its two ways to write that.

    A request has a list of targets; a configuration (a request may too) has ``[{name: targets}]``, with ``*``
    for names that have none of their own.
    """
    entries = fallbacks if isinstance(fallbacks, list) else []
    if all(isinstance(each, str) or _is_target(each) for each in entries):
        return tuple(entries)
    for name in (asked, "*"):
        for entry in entries:
            targets = entry.get(name) if isinstance(entry, Mapping) else None
            if isinstance(targets, list):
                return tuple(each for each in targets if isinstance(each, str) or _is_target(each))
    return ()


def routed(
    asked: str,
    ladder: Sequence[Rung],
    deployments: Iterable[Deployment],
    others: Iterable[Target] = (),
    bases: frozenset[str] = frozenset(),
) -> Route | None:
    """Where a request for ``asked`` goes; None where it names no tier.

    ``others`` are its owner's fallbacks: those that not only the guard's Ollama serves come last, and are
    tried also where no tier is allowed. So is ``asked`` itself, where another server (a row that is not
    governed) answers to it too: at the attempt only the rows of the guard's Ollama are taken away.

    Raises:
        NoTierAllowed: neither a tier at or below it is allowed, nor the one above, and there are no others.
    """
    rows = list(deployments)
    groups = _groups(ladder, rows, bases)
    wanted = next((place for place, names in enumerate(groups) if asked in names), None)
    if wanted is None:
        return None
    elsewhere = _elsewhere(ladder, rows, bases)
    # Another server is asked where its name was asked for, or stands in the owner's fallbacks.
    usable = [
        names if rung.allowed else [name for name in names if name == asked and name in elsewhere]
        for rung, names in zip(ladder, groups, strict=True)
    ]
    order = _order(wanted, [place for place, names in enumerate(usable) if names])
    names = [asked if asked in usable[place] else usable[place][0] for place in order]
    here = {name for names in groups for name in names} - elsewhere
    also = [target for target in others if _name_of(target) not in here.union(names)]
    if not order and not also:
        which = f"allows none of the tiers up to {ladder[wanted].name!r}"
        raise NoTierAllowed(ladder[wanted].reason, which)
    # Where none is allowed the one that was asked for is refused at its attempt, and LiteLLM falls back: it
    # asks whether this client may have the other.
    group, *following = names or [asked]
    first = ladder[order[0] if order else wanted].name
    return Route(group, first, _alike([*following, *also]))


def _order(wanted: int, usable: Sequence[int]) -> list[int]:
    """From the tier that was asked for downwards, then one step up from the highest that is tried first.

    Whether that one is allowed then is seen at the attempt.
    """
    below = [place for place in reversed(usable) if place <= wanted]
    step = (below[0] if below else wanted) + 1
    return below + [place for place in usable if place == step]


def _groups(ladder: Sequence[Rung], rows: Sequence[Deployment], bases: frozenset[str]) -> list[list[str]]:
    """For each tier the names in ``model_list`` that its model is served under, in their order."""
    served: dict[str, list[str]] = {}
    for row in rows:
        if is_governed(row, bases):
            served.setdefault(model_of(row), []).append(str(row.get("model_name")))
    return [served.get(ollama_name(rung.model), []) for rung in ladder]


def _elsewhere(ladder: Iterable[Rung], rows: Iterable[Deployment], bases: frozenset[str]) -> set[str]:
    """The names in ``model_list`` that somebody serves of whom the guard knows nothing."""
    known = {ollama_name(rung.model) for rung in ladder}
    return {
        str(row.get("model_name")) for row in rows if not (is_governed(row, bases) and model_of(row) in known)
    }


def _alike(targets: Sequence[Target]) -> tuple[Target, ...]:
    """All names, or all mappings: LiteLLM does not take a list of both."""
    if all(isinstance(target, str) for target in targets):
        return tuple(targets)
    return tuple({"model": target} if isinstance(target, str) else target for target in targets)


def _is_target(entry: object) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("model"), str)


def _name_of(target: Target) -> str:
    return target if isinstance(target, str) else str(target.get("model"))


def _parameters(deployment: object) -> Mapping[str, Any]:
    parameters = deployment.get("litellm_params") if isinstance(deployment, Mapping) else None
    return parameters if isinstance(parameters, Mapping) else {}


def _base(url: str) -> str:
    """An address without what is written in one way here and in another there."""
    return url.strip().lower().rpartition("://")[2].rstrip("/").removesuffix("/v1")
