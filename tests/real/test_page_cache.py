"""A real load whose weights were pushed out of the page cache before: it reads them again, and fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from beds.cgroups import MemoryCgroup
from beds.clients import StreamingClient
from beds.guard import Guard
from beds.hog import Hog
from beds.ollama_install import Installation
from beds.real_ollama import own_shelf
from beds.server import RealServer
from beds.yard import GIB, MIB

LIMIT_BYTES = 1 * GIB
# What is left for page cache then is less than the weights of mid, 150 MiB at the least.
PUSHED_BYTES = 80 * MIB
PAGE_BYTES = 4096


def pages_read_back(cgroup: MemoryCgroup) -> int:
    """The kernel's running total."""
    lines = dict(line.split() for line in (cgroup.path / "memory.stat").read_text().splitlines())
    names = ("total_workingset_refault_file", "workingset_refault_file")
    return int(next(lines[name] for name in names if name in lines))


def own_weights(models: Path, weights: Path, room: MemoryCgroup) -> None:
    """Make a blob of a shelf a file of its own whose pages are the room's: links share theirs with others."""
    blob = models / "blobs" / weights.name
    blob.unlink()
    copy = room.popen(["sh", "-c", 'cp "$0" "$1" && sync "$1"', str(weights), str(blob)])
    assert copy.wait(60) == 0


def test_a_load_that_reads_its_weights_back_is_not_aborted_where_it_fits(
    memory_cgroup: Callable[[int], MemoryCgroup], ollama_installation: Installation, tmp_path: Path
) -> None:
    """It needs 620 of the 800 MiB that the small model's answer leaves; its own weights take the rest."""
    room = memory_cgroup(LIMIT_BYTES)
    models = own_shelf(ollama_installation, tmp_path / "models", only=("tiny", "mid"))
    with RealServer(ollama_installation, launcher=room.popen, models=models) as server:
        weights = ollama_installation.models / "blobs" / server.blob("mid").name
        own_weights(models, weights, room)
        with Hog(room.popen) as hog:
            hog.grow(room.available() - PUSHED_BYTES, 800 * MIB)
            assert hog.wait(30)
        with Guard(server.url, cgroup=f"/{room.name}", home=tmp_path) as guard:
            guard.wait_guarding(server.pid)
            server.load("tiny")
            with StreamingClient(server.url, "tiny", 4000) as client:
                assert client.wait_streaming()
                before = pages_read_back(room)
                server.load("mid")
                assert (pages_read_back(room) - before) * PAGE_BYTES > 100 * MIB, "else it proves nothing"
            assert not guard.events("load.aborted")
            assert not guard.events("decision.made"), guard.tail()
