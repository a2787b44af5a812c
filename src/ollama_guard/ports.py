"""What `hands` need of foreign systems, as small protocols; fakes of them ship in `testing`.

Every call takes a *total* deadline in seconds and raises only the `GuardError` that its port names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ollama_guard.core.model import CatalogueEntry, LoadedModel, ServerReading
from ollama_guard.core.quarantined import QuarantineEntry
from ollama_guard.core.runtime import Limits, RuntimeReading, Told


class OllamaPort(Protocol):
    """Ollama's HTTP API as a supervisor needs it (facts 1); raises only `OllamaError`."""

    def version(self, deadline_seconds: float) -> str:
        """The server's version, such as ``0.33.0``."""

    def loaded(self, deadline_seconds: float) -> tuple[LoadedModel, ...]:
        """``/api/ps``, each entry with its blob where the catalogue knows it."""

    def catalogue(self, deadline_seconds: float) -> tuple[CatalogueEntry, ...]:
        """Every installed local model, grouped by blob; cloud stubs are skipped (facts 1.5)."""

    def unload(self, model: str, deadline_seconds: float) -> str:
        """Ask for the unload of a model (keep_alive 0); returns ``done_reason``. Never loads."""

    def copy(self, source: str, destination: str, deadline_seconds: float) -> None:
        """Make a second name of a model (facts 1.7). The caller has made sure that it doesn't exist."""

    def delete(self, model: str, deadline_seconds: float) -> None:
        """Take a name away; blobs that no other name has go with it (facts 1.7)."""

    def digests(self, deadline_seconds: float) -> dict[str, str]:
        """Every local name of ``/api/tags`` with its manifest's digest; cloud stubs are skipped."""

    def modelfile(self, model: str, deadline_seconds: float) -> str:
        """The text from which a model could be created again, as ``/api/show`` tells it."""

    def generate(self, model: str, deadline_seconds: float) -> None:
        """Load a model and have it answer one token: the proof that the server serves."""


class RuntimePort(Protocol):
    """One way of running Ollama; raises only `RuntimeFailed`. Every verb is safe to repeat."""

    def find(self, server: ServerReading, deadline_seconds: float) -> RuntimeReading | None:
        """How this server is run, by evidence (its cgroup, then the runtime's own word), else None."""

    def read(self, name: str, deadline_seconds: float) -> RuntimeReading:
        """The runtime by its name, also while no server of it lives."""

    def stop(self, name: str, deadline_seconds: float) -> None:
        """Stop it so that nothing starts it again by itself."""

    def start(self, name: str, deadline_seconds: float) -> None:
        """Start it; one that runs already is left alone."""

    def limit(self, name: str, limits: Limits, deadline_seconds: float) -> tuple[str, ...]:
        """Set live limits; returns a sentence for each one that was left out, and why. Never below use."""

    def unlimit(self, name: str, deadline_seconds: float) -> None:
        """Put the limits back that were there before the first `limit`."""


@runtime_checkable
class TellingPort(Protocol):
    """A runtime that tells what happens, as it happens; raises only `RuntimeFailed`."""

    def listen(self, name: str, tell: Callable[[Told], None], wanted: Callable[[], bool]) -> None:
        """Block and ``tell`` until it is no longer ``wanted``, which is asked once a minute."""


class ModelStorePort(Protocol):
    """Ollama's manifests as files; raises only `StoreFailed`."""

    def hide(self, name: str) -> QuarantineEntry:
        """Rename a name's manifest away, offline; repeating it changes nothing."""

    def restore(self, name: str) -> None:
        """Rename it back. Refused where a manifest of that name is there again."""


class LimitsBook(Protocol):
    """What a runtime's limits were before the guard's first one; outlives the guard."""

    def before(self, runtime: str) -> dict[str, int] | None:
        """The owner's own limits, or None while the guard has set none."""

    def remember(self, runtime: str, limits: dict[str, int]) -> None:
        """Keep the owner's limits, unless they are known already; raises `RuntimeFailed` if it can't."""

    def forget(self, runtime: str) -> None:
        """The owner's limits are in force again."""
