"""A LiteLLM proxy with the shipped ladder's names, over models that fail on demand."""

from dataclasses import dataclass
from pathlib import Path

from beds.litellm_proxy import LitellmProxy
from beds.litellm_world import FakeGuard, StubOllama
from ollama_guard.core.tiers import EXAMPLE

TIERS = EXAMPLE
LADDER = [(tier.name, tier.model) for tier in TIERS]


@dataclass(frozen=True, slots=True)
class Yard:
    """One proxy over the stub, and where its guard would be."""

    proxy: LitellmProxy
    ollama: StubOllama
    status: Path

    def guard(self) -> FakeGuard:
        """A guard with our tiers: it is there while it is entered."""
        return FakeGuard(self.status, LADDER)
