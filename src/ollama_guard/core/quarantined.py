"""Which models are hidden from clients, and what is known of the store that they lie in. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Hidden(StrEnum):
    """How a model was hidden."""

    OFFLINE = "offline"
    """By rename of its manifest; works while the server is down."""
    API = "api"
    """By copy, verify, delete through Ollama's API."""
    DELETED = "deleted"
    """Deleted, where the owner wrote so; what is needed to get it back was saved."""


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One name of a model that is hidden: ``name`` is what clients asked for, ``alias`` what it is kept as.

    ``needs_bytes`` is the least that it is known to need when loaded; ``since`` is in epoch seconds, since it
    outlives a boot. ``returned`` is whether clients have pulled the name back meanwhile.
    """

    name: str
    alias: str
    blob: str | None
    how: Hidden
    since: float
    size_bytes: int | None = None
    needs_bytes: int = 0
    reason: str = ""
    returned: bool = False


@dataclass(frozen=True, slots=True)
class StoreReading:
    """Ollama's model store as hands see it: ``path`` on this host ("" = not found), and what is hidden in it.

    ``writable`` is whether manifests can be renamed here, so that hiding works while the server is down.
    ``busy`` is a sentence while a pull or create runs, else "", which is known only where it is ``readable``.
    """

    path: str = ""
    writable: bool = False
    entries: tuple[QuarantineEntry, ...] = ()
    busy: str = ""
    read_at: float = 0.0
    error: str = ""
    readable: bool = False
