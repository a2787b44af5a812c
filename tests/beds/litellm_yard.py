"""A LiteLLM proxy with the shipped ladder's names, over models that fail on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beds.litellm_proxy import LitellmProxy
from beds.litellm_world import FakeGuard, StubOllama
from ollama_guard.core.tiers import EXAMPLE

TIERS = EXAMPLE
LADDER = [(tier.name, tier.model) for tier in TIERS]

# What a client sends beside the model's name, by each of the three APIs.
ASK = {"messages": [{"role": "user", "content": "hello"}]}
OTHER_WAYS = [("/v1/responses", {"input": "hello"}), ("/v1/messages", {"max_tokens": 20, **ASK})]


@dataclass(frozen=True, slots=True)
class Yard:
    """One proxy over the stub, and where its guard would be; of ``elsewhere``'s server that knows nothing."""

    proxy: LitellmProxy
    ollama: StubOllama
    elsewhere: StubOllama
    status: Path

    def guard(self, tiers: Sequence[tuple[str, str]] = LADDER) -> FakeGuard:
        """A guard with these tiers: it is there while it is entered."""
        return FakeGuard(self.status, tiers)
