"""Asks the kernel for page cache of one cgroup (``memory.reclaim``, v2, since Linux 5.19), in small chunks.

The write blocks its writer until the chunk is reclaimed, so this has a lane of its own; EAGAIN says that
there is no more. Anonymous memory stays where it is: reclaiming that would push a model into swap, where it
serves nobody and is in everybody's way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from ollama_guard.cgmounts import parse_mounts
from ollama_guard.core.model import Action, Outcome, OutcomeKind
from ollama_guard.core.units import bytes_text
from ollama_guard.errors import GuardError
from ollama_guard.hands.lanes import Clock, Lane, Mailbox, NeverStarted, Result
from ollama_guard.hands.watch import Send
from ollama_guard.wire import OutcomeReported

# Bytes of one write: some milliseconds of the kernel's work, so that a deadline between two writes is kept.
CHUNK_BYTES = 16 * 1024**2


class NotReclaimed(GuardError):
    """The kernel did not do what it was asked for; the message says why."""


class Reclaimer:
    """Carries out `ActionKind.RECLAIM`, one at a time."""

    def __init__(
        self,
        mailbox: Mailbox,
        send: Send,
        clock: Clock,
        proc: str = "/proc",
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._write = write
        self._send = send
        self._clock = clock
        self._proc = Path(proc)
        self._mailbox = mailbox
        self._lane: Lane | None = None

    def act(self, action: Action) -> None:
        """Start one action; its Outcome follows."""
        if self._lane is None:  # most machines never need it, nor its thread
            self._lane = Lane("reclaim", 1, self._mailbox, self._clock)
        self._lane.submit(
            lambda: self._reclaim(action), action.deadline_at, lambda result: self._report(action, result)
        )

    def check(self) -> None:
        """Give up calls that are overdue."""
        if self._lane is not None:
            self._lane.check()

    def _reclaim(self, action: Action) -> int:
        """Bytes that the kernel took, in the lane."""
        folder = Path(action.cgroup)
        self._refuse_strangers(folder)
        try:
            descriptor = os.open(folder / "memory.reclaim", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as problem:
            raise NotReclaimed(f"{folder}/memory.reclaim: {problem.strerror}") from problem
        try:
            return self._in_chunks(descriptor, action, folder)
        finally:
            os.close(descriptor)

    def _in_chunks(self, descriptor: int, action: Action, folder: Path) -> int:
        freed, only_cache = 0, " swappiness=0"
        while freed < action.expected_bytes and self._clock() < action.deadline_at:
            chunk = min(CHUNK_BYTES, action.expected_bytes - freed)
            try:
                self._write(descriptor, f"{chunk}{only_cache}".encode())
            except OSError as problem:
                if problem.errno == errno.EAGAIN:
                    break
                if problem.errno != errno.EINVAL or not only_cache:
                    raise NotReclaimed(f"the kernel refused: {problem.strerror}") from problem
                if self._may_swap(folder):
                    why = "this kernel can't be asked for page cache alone, and there is swap"
                    raise NotReclaimed(why) from problem
                only_cache = ""
            else:
                freed += chunk
        return freed

    def _refuse_strangers(self, folder: Path) -> None:
        """Only a cgroup of one of this machine's v2 trees is written to."""
        mounts = parse_mounts((self._proc / "self/mountinfo").read_bytes())
        points = [Path(mount.point) for mount in mounts if mount.version == 2]
        if ".." in folder.parts or not any(folder.is_relative_to(point) for point in points):
            raise NotReclaimed(f"{folder} is no cgroup of a v2 tree that is mounted here")

    def _may_swap(self, folder: Path) -> bool:
        """Whether anonymous memory of this cgroup could go to swap; also when that can't be told."""
        try:
            if (folder / "memory.swap.max").read_text(encoding="ascii").strip() == "0":
                return False
        except OSError:
            pass  # no swap accounting, or no such file: the machine's own swap decides
        try:
            after = (self._proc / "meminfo").read_text(encoding="ascii").partition("SwapTotal:")[2]
        except OSError:
            return True
        return after.split()[:1] != ["0"]

    def _report(self, action: Action, result: Result) -> None:
        kind, freed, detail = OutcomeKind.FAILED, 0, str(result.error)
        if isinstance(result.error, NeverStarted):
            kind = OutcomeKind.SKIPPED
        elif result.error is None and isinstance(result.value, int):
            freed = result.value
            kind = OutcomeKind.DONE if freed else OutcomeKind.FAILED
            less = "" if freed >= action.expected_bytes else f" of {bytes_text(action.expected_bytes)} wanted"
            detail = f"{bytes_text(freed)}{less}"
        self._send(OutcomeReported(Outcome(action.id, kind, self._clock(), freed, detail)))
