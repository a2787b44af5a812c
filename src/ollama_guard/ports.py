"""What `hands` need of foreign systems, as small protocols; fakes of them ship in `testing`.

Every call takes a *total* deadline in seconds and raises only `OllamaError`.
"""

from __future__ import annotations

from typing import Protocol

from ollama_guard.core.model import CatalogueEntry, LoadedModel


class OllamaPort(Protocol):
    """Ollama's HTTP API as a supervisor needs it (facts 1)."""

    def version(self, deadline_seconds: float) -> str:
        """The server's version, such as ``0.33.0``."""

    def loaded(self, deadline_seconds: float) -> tuple[LoadedModel, ...]:
        """``/api/ps``, each entry with its blob where the catalogue knows it."""

    def catalogue(self, deadline_seconds: float) -> tuple[CatalogueEntry, ...]:
        """Every installed local model, grouped by blob; cloud stubs are skipped (facts 1.5)."""

    def unload(self, model: str, deadline_seconds: float) -> str:
        """Ask for the unload of a model (keep_alive 0); returns ``done_reason``. Never loads."""
