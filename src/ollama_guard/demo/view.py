"""What there is to see at one moment, whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """One who holds memory: its bytes now, and in a few words what it does."""

    name: str
    held_bytes: int
    state: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """One line of the story at a time of the show (seconds): ``kind`` is the event's name or ``chapter``."""

    at: float
    kind: str
    text: str

    @property
    def loud(self) -> bool:
        """Whether the guard did something, or something went wrong."""
        return self.kind in LOUD


# Events of the guard that a watcher wants to read; the others are in no show (start-up tests, for one).
SHOWN = frozenset(
    {
        "level.changed", "decision.made", "decision.held", "model.unloaded", "load.aborted", "runner.killed",
        "blob.condemned", "blob.pardoned", "cap.changed", "action.failed", "hands.restarted", "ollama.lost",
    }
)  # fmt: skip
LOUD = frozenset({"model.unloaded", "load.aborted", "runner.killed", "blob.condemned", "action.failed"})


@dataclass(frozen=True, slots=True)
class View:
    """One moment of the show; bytes, and seconds since it began."""

    at: float
    budget_bytes: int
    available_bytes: int
    limits: tuple[tuple[str, int], ...]
    level: str
    chapter: int
    chapters: int
    title: str
    caption: str
    actors: tuple[Actor, ...]
    guarded: bool
    without_bytes: int
    out_at: float | None
    told: tuple[Told, ...]


def clock(seconds: float) -> str:
    """``00:41``: minutes and seconds of the show."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
