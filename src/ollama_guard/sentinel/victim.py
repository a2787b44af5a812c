"""One process that an action is about: held by its pidfd, so that nobody else can be meant by its PID."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.sentinel.sensors.processes import THREADS_LIMIT, held_status, read_stat

_FREEABLE_KEYS = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


@dataclass(slots=True)
class Victim:
    """``before_bytes`` is what its end should give back; ``exited`` when its end was told."""

    pid: int
    pidfd: int
    before_bytes: int
    proc: Path
    exited: bool = False

    def gone(self) -> bool:
        """Whether it has exited, all its threads included."""
        self.exited = self.exited or is_readable(self.pidfd)
        return self.exited

    def freed_bytes(self) -> int:
        """What has come back of it so far."""
        left = 0 if self.gone() else freeable_bytes(self.proc, self.pid)
        return 0 if left is None else max(0, self.before_bytes - left)

    def why_there(self) -> str:
        """Why it is still there although it was killed, as the end of a sentence; "" if nothing tells."""
        threads = (self.proc / str(self.pid) / "task").glob("[0-9]*")
        tids = [int(thread.name) for _, thread in zip(range(THREADS_LIMIT), threads, strict=False)]
        stats = (read_stat(f"{self.proc}/{self.pid}/task", tid) for tid in tids)
        if any(stat is not None and stat.state == "D" for stat in stats):
            return (
                ": it hangs in the kernel (state D), where no signal reaches it before what it waits for "
                "(a disk, a device, a freezer) lets it go"
            )
        return ""


def freeable_bytes(proc: Path, pid: int) -> int | None:
    """RssAnon + RssShmem + VmSwap of a process; None if that can't be read.

    One that has just ended shows nothing either: only its pidfd tells that all of it has come back.
    """
    text = held_status(str(proc), pid)
    if not text:
        return None
    return _sum_kib(line for line in text.splitlines() if line.startswith(_FREEABLE_KEYS)) * 1024


def is_readable(pidfd: int) -> bool:
    """Whether a pidfd says that its process has exited."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def close(victims: Iterable[Victim]) -> None:
    """Let go of their pidfds."""
    for victim in victims:
        os.close(victim.pidfd)


def _sum_kib(lines: Iterable[bytes]) -> int:
    words = (line.split() for line in lines)
    return sum(int(word[1]) for word in words if len(word) > 1 and word[1].isdigit())
