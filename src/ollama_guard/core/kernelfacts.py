"""What `doctor` knows of the kernel's memory settings and of what memory is swapped to. Values only.

None, and "" for words, is what could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Swap:
    """One area of swap; ``slow`` says what makes it slow ("" = nothing that is known)."""

    name: str
    bytes: int
    zram: bool = False
    slow: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """``arc_max_bytes``: how far ZFS' cache may grow (None: no ZFS). ``thp*``: the word that is chosen."""

    release: str = ""
    overcommit: int | None = None
    thp: str = ""
    thp_defrag: str = ""
    arc_bytes: int | None = None
    arc_max_bytes: int | None = None
    swaps: tuple[Swap, ...] = ()
    memory_cgroups: bool | None = None
    """False where it was started without them (a Raspberry Pi is): there is no limit of memory then."""

    @property
    def version(self) -> tuple[int, int] | None:
        """``(5, 10)`` of ``5.10.0-28-amd64``; None where it can't be told."""
        parts = self.release.replace("-", ".").split(".")
        try:
            return int(parts[0]), int(parts[1])
        except (ValueError, IndexError):
            return None
