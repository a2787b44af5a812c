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

# How LiteLLM's name of a model begins where it is one of Ollama's, by its native and its OpenAI API.
PROVIDERS = ("ollama_chat/", "ollama/", "openai/")

Deployment = Mapping[str, Any]


class NoTierAllowed(Exception):
    """No model may be loaded now; LiteLLM turns it into this status and these headers."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = 503
        self.headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}


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
    fallbacks: tuple[str, ...]


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
    parameters = deployment.get("litellm_params") if isinstance(deployment, Mapping) else None
    return ollama_name(parameters.get("model") if isinstance(parameters, Mapping) else None)


def groups_of(ladder: Sequence[Rung], deployments: Iterable[Deployment]) -> list[list[str]]:
    """For each tier the names in ``model_list`` that its model is served under, in their order."""
    served: dict[str, list[str]] = {}
    for deployment in deployments:
        served.setdefault(model_of(deployment), []).append(str(deployment.get("model_name")))
    return [served.get(ollama_name(rung.model), []) for rung in ladder]


def routed(asked: str, ladder: Sequence[Rung], deployments: Iterable[Deployment]) -> Route | None:
    """Where a request for ``asked`` goes; None where it names no tier.

    Raises:
        NoTierAllowed: neither a tier at or below it is allowed, nor the one above.
    """
    groups = groups_of(ladder, deployments)
    wanted = next((place for place, names in enumerate(groups) if asked in names), None)
    if wanted is None:
        return None
    usable = [place for place in range(len(ladder)) if groups[place] and ladder[place].allowed]
    below = [place for place in reversed(usable) if place <= wanted]
    # One step up, from the highest that is tried first; whether it is allowed then is seen at the attempt.
    step = (below[0] if below else wanted) + 1
    above = [place for place in usable if place == step]
    order = below + above
    if not order:
        raise NoTierAllowed(
            f"no model can be loaded now: {ladder[wanted].reason or 'memory is short'} "
            f"(ollama-guard allows none of the tiers up to {ladder[wanted].name!r}); "
            f"try again in {RETRY_AFTER_SECONDS} s"
        )
    names = [asked if place == wanted else groups[place][0] for place in order]
    return Route(names[0], ladder[order[0]].name, tuple(names[1:]))
