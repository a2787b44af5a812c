"""What test runs and their workers share: one cache, and locks so that nothing is made twice at once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """`$OLLAMA_GUARD_CACHE`, else `~/.cache/ollama-guard`."""
    chosen = os.environ.get("OLLAMA_GUARD_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "ollama-guard"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock file, so that two workers or runs don't do the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
