"""A configuration for the LiteLLM proxy, made from the tiers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ollama_guard.core.tiers import Tier
from ollama_guard.core.units import bytes_text
from ollama_guard.errors import GuardError

# What clients ask for, by the name of the tier that answers; another tier is asked for by its own name.
MODEL_NAMES = {
    "light": "gpt-3.5-turbo-light",
    "default": "gpt-3.5-turbo",
    "reasoning": "gpt-4",
    "fallback": "gpt-4-turbo",
}

# What issue and users agreed on for a small machine; seconds where it is a time. Two retries and a smaller
# model behind them; a model that can't be had is left alone for 2 s, not for LiteLLM's 5, since here it comes
# back when memory does; beyond 5 requests for one model the next gets a smaller one, after its retries.
ROUTING: Mapping[str, str | int] = {
    "routing_strategy": "least-busy",
    "num_retries": 2,
    "timeout": 180,
    "cooldown_time": 2,
    "default_max_parallel_requests": 5,
}
LITELLM_MAX_FALLBACKS = 5  # what it gives up after by default; here each tier may be tried
CALLBACK = "ollama_guard.integrations.litellm.guard"
MASTER_KEY = "LITELLM_MASTER_KEY"

_HEAD = f"""\
# LiteLLM in front of Ollama, made by `ollama-guard litellm render` from the tiers, small to large.
#
#   export {MASTER_KEY}=…     at least 32 characters; clients send it as their API key
#   pip install 'ollama-guard[litellm]'       into the environment that LiteLLM runs in
#   litellm --config THIS-FILE --host 127.0.0.1 --port 4000
#
# How many requests may wait is no matter of LiteLLM, which has no queue: OLLAMA_MAX_QUEUE in Ollama's
# environment.
"""


def model_names(tiers: Sequence[Tier], wanted: Mapping[str, str]) -> dict[str, str]:
    """Each tier's name to what clients ask for; ``wanted`` goes before the defaults.

    Raises:
        GuardError: an unknown tier, an empty name, or two tiers of one name.
    """
    for name, model_name in wanted.items():
        if name not in {tier.name for tier in tiers}:
            known = ", ".join(tier.name for tier in tiers)
            raise GuardError(f"there is no tier {name!r} to be called {model_name!r}; there are {known}")
        if not model_name.strip():
            raise GuardError(f"the tier {name!r} needs a name that clients can ask for")
    names = {tier.name: wanted.get(tier.name, MODEL_NAMES.get(tier.name, tier.name)) for tier in tiers}
    taken: dict[str, str] = {}
    for name, model_name in names.items():
        if model_name in taken:
            raise GuardError(
                f"{model_name!r} would be both {taken[model_name]!r} and {name!r}: give one of them another "
                f"name, for example --name {name}={name}"
            )
        taken[model_name] = name
    return names


def render(
    tiers: Sequence[Tier], ollama_url: str, wanted: Mapping[str, str] | None = None, *, callback: bool = True
) -> str:
    """The file; ``callback`` False leaves the guard out, for a LiteLLM that can't import it.

    Raises:
        GuardError: as `model_names`; or there is no tier.
    """
    if not tiers:
        raise GuardError(
            "there are no tiers to make a configuration from: add [[tiers]] to the guard's file "
            "(`ollama-guard init` proposes some)"
        )
    names = model_names(tiers, wanted or {})
    lines = [_HEAD, "model_list:"]
    for tier in tiers:
        lines += _row(tier, names[tier.name], ollama_url)
    lines += ["", "router_settings:"]
    lines += [f"  {key}: {json.dumps(value)}" for key, value in ROUTING.items()]
    if len(tiers) > LITELLM_MAX_FALLBACKS:
        lines += [f"  max_fallbacks: {len(tiers)}"]
    lines += _fallbacks([names[tier.name] for tier in tiers])
    lines += ["", "general_settings:", f"  master_key: os.environ/{MASTER_KEY}"]
    if callback:
        lines += [
            "",
            "# Each request goes to the largest model that the guard allows; if it is away nothing changes.",
            "litellm_settings:",
            f"  callbacks: [{json.dumps(CALLBACK)}]",
        ]
    return "\n".join(lines) + "\n"


def _row(tier: Tier, model_name: str, ollama_url: str) -> list[str]:
    expected = f", about {bytes_text(tier.memory_bytes)} loaded" if tier.memory_bytes else ""
    purpose = f": {tier.purpose}" if tier.purpose else ""
    return [
        f"  # {' '.join(f'{tier.name}{purpose}{expected}'.split())}",
        f"  - model_name: {_text(model_name)}",
        "    litellm_params:",
        f"      model: {_text('ollama_chat/' + tier.model)}",
        # Without an address LiteLLM starts an `ollama serve` of its own beside the one that is guarded.
        f"      api_base: {_text(ollama_url)}",
    ]


def _fallbacks(names: Sequence[str]) -> list[str]:
    """From each but the smallest downwards; upwards the guard's callback decides, request by request."""
    if len(names) < 2:
        return []
    lines = ["  fallbacks:"]
    for place in range(len(names) - 1, 0, -1):
        below = ", ".join(_text(name) for name in reversed(names[:place]))
        lines.append(f"    - {_text(names[place])}: [{below}]")
    return lines


def _text(value: str) -> str:
    """A JSON string is a YAML string, whatever is in it."""
    return json.dumps(value)
