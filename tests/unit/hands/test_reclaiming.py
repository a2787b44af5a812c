"""Page cache is asked for in chunks, only it, only in cgroups of this machine, and within a deadline."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.hands.reclaiming import CHUNK_BYTES, Reclaimer
from ollama_guard.wire import OutcomeReported


class Kernel:
    """A laid-out v2 tree whose ``memory.reclaim`` takes chunks until there are no more."""

    def __init__(self, loop: Any, root: Path) -> None:
        self.loop = loop
        self.root = root
        self.cgroup = root / "cgroup/ollama"
        self.cgroup.mkdir(parents=True)
        (self.cgroup / "memory.reclaim").write_text("")
        (root / "self").mkdir()
        (root / "self/mountinfo").write_text(f"30 23 0:27 / {root}/cgroup rw - cgroup2 cgroup2 rw\n")
        self.swap(0)
        self.written: list[str] = []
        self.chunks = 1000
        self.knows_swappiness = True
        self.after: Callable[[], None] = lambda: None

    def swap(self, kib: int, of_the_cgroup: str = "max") -> None:
        """How much swap there is."""
        (self.root / "meminfo").write_text(f"MemTotal: 1 kB\nSwapTotal: {kib} kB\n")
        (self.cgroup / "memory.swap.max").write_text(f"{of_the_cgroup}\n")

    def write(self, descriptor: int, data: bytes) -> int:
        """A write to ``memory.reclaim``."""
        del descriptor
        text = data.decode()
        if "swappiness" in text and not self.knows_swappiness:
            raise OSError(errno.EINVAL, "Invalid argument")
        if len(self.written) >= self.chunks:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.written.append(text)
        self.after()
        return len(data)

    def reclaim(self, size: int = 3 * CHUNK_BYTES, cgroup: Path | None = None) -> Outcome:
        """One action, to its end."""
        action = Action(
            7, ActionKind.RECLAIM, Rung.RECLAIM, self.loop.now + 10, expected_bytes=size,
            cgroup=str(cgroup or self.cgroup),
        )  # fmt: skip
        reclaimer = Reclaimer(self.loop.mailbox, self.loop.send, self.loop.clock, str(self.root), self.write)
        reclaimer.act(action)
        self.loop.run_until(lambda: bool(self.loop.sent))
        (message,) = self.loop.sent
        assert isinstance(message, OutcomeReported)
        return message.outcome


@pytest.fixture
def kernel(loop: Any, tmp_path: Path) -> Kernel:
    return Kernel(loop, tmp_path)


def test_it_is_asked_for_in_chunks_and_for_cache_alone(kernel: Kernel) -> None:
    ended = kernel.reclaim(2 * CHUNK_BYTES + 4096)
    assert (ended.kind, ended.freed_bytes) == (OutcomeKind.DONE, 2 * CHUNK_BYTES + 4096)
    assert kernel.written == [
        f"{CHUNK_BYTES} swappiness=0", f"{CHUNK_BYTES} swappiness=0", "4096 swappiness=0",
    ]  # fmt: skip


def test_no_more_is_the_end_and_what_came_counts(kernel: Kernel) -> None:
    kernel.chunks = 1
    ended = kernel.reclaim()
    assert (ended.kind, ended.freed_bytes) == (OutcomeKind.DONE, CHUNK_BYTES)
    assert ended.detail == "16 MiB of 48 MiB wanted"


def test_nothing_at_all_is_a_failure(kernel: Kernel) -> None:
    kernel.chunks = 0
    assert kernel.reclaim().kind is OutcomeKind.FAILED


def test_its_deadline_ends_it_between_two_chunks(kernel: Kernel) -> None:
    def late() -> None:
        kernel.loop.now += 6

    kernel.after = late
    assert kernel.reclaim(100 * CHUNK_BYTES).freed_bytes == 2 * CHUNK_BYTES


@pytest.mark.parametrize(("swap", "limit"), [(0, "max"), (1024, "0")], ids=["no swap", "none for it"])
def test_an_older_kernel_is_asked_plainly_where_nothing_can_be_swapped(
    kernel: Kernel, swap: int, limit: str
) -> None:
    kernel.knows_swappiness = False
    kernel.swap(swap, limit)
    assert kernel.reclaim(CHUNK_BYTES).kind is OutcomeKind.DONE
    assert kernel.written == [str(CHUNK_BYTES)]


def test_where_a_model_could_end_in_swap_an_older_kernel_is_not_asked(kernel: Kernel) -> None:
    kernel.knows_swappiness = False
    kernel.swap(1024)
    ended = kernel.reclaim()
    assert (ended.kind, kernel.written) == (OutcomeKind.FAILED, [])
    assert "there is swap" in ended.detail


@pytest.mark.parametrize("place", ["elsewhere", "cgroup/../elsewhere"])
def test_a_place_outside_of_the_v2_trees_is_not_written_to(kernel: Kernel, place: str) -> None:
    (kernel.root / "elsewhere").mkdir()
    (kernel.root / "elsewhere/memory.reclaim").write_text("")
    ended = kernel.reclaim(cgroup=kernel.root / place)
    assert (ended.kind, kernel.written) == (OutcomeKind.FAILED, [])
    assert "no cgroup of a v2 tree" in ended.detail


def test_a_cgroup_that_is_gone_is_named(kernel: Kernel) -> None:
    ended = kernel.reclaim(cgroup=kernel.root / "cgroup/gone")
    assert (ended.kind, "memory.reclaim: No such file" in ended.detail) == (OutcomeKind.FAILED, True)
