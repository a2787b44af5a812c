"""A guard over a fake Ollama that takes real memory, in a cgroup of their own."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard


@contextlib.contextmanager
def guarded_fake(
    limit_bytes: int, name: str, models: Sequence[str], home: Path, **options: Any
) -> Iterator[tuple[Guard, FakeServer]]:
    """Both, once the guard knows the catalogue; skips the test where no cgroup can be made.

    ``options`` are those of `Guard`.
    """
    try:
        with (
            MemoryCgroup(limit_bytes, name) as cgroup,
            FakeServer(cgroup.join_paths, models) as server,
            Guard(server.url, cgroup=f"/{cgroup.name}", home=home, **options) as guard,
        ):
            guard.wait_guarding(server.pid)
            first = models[0].partition("=")[0]
            guard.wait(lambda: first in guard.tell("models").stdout, 15, "the catalogue is told")
            yield guard, server
    except BedUnavailable as problem:
        pytest.skip(str(problem))
