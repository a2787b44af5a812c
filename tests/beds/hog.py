"""The handle that a test holds on the program that eats memory (`ollama_guard.testing.hog`)."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from beds.process import Launcher, Started, launch
from ollama_guard.testing import hog

NICE = -10
"""It is to keep its speed on a busy machine too, but not to take the processor from the guard (nice -15)."""


class Hog:
    """A process that takes memory. Enter it to start it (8 MiB), then `grow`.

    Args:
        launcher: who starts it: `launch`, a cgroup's or a small host's `popen`.
    """

    def __init__(self, launcher: Launcher = launch) -> None:
        self._launcher = launcher
        self._target_bytes = 0
        with tempfile.NamedTemporaryFile(prefix="hog-", delete=False) as progress:
            self._progress = Path(progress.name)
        self.started: Started | None = None

    def __enter__(self) -> Self:
        argv = [sys.executable, "-I", "-S", hog.__file__, str(self._progress)]
        self.started = self._launcher(argv, stdin=subprocess.PIPE)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.started.pid, NICE)
        return self

    def __exit__(self, *_: object) -> None:
        if self.started is not None:
            self.started.stop()
        self._progress.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """Its PID, as this machine numbers it."""
        assert self.started is not None
        return self.started.pid

    def grow(self, target_bytes: int, bytes_per_second: int) -> None:
        """Start growing to `target_bytes` in all, every page written; returns at once."""
        self._target_bytes = target_bytes
        self._say(f"grow {target_bytes} {bytes_per_second}")

    def release(self) -> None:
        """Give everything back once a growth under way has ended; returns at once."""
        self._target_bytes = 0
        self._say("release")

    def _say(self, line: str) -> None:
        assert self.started is not None
        self.started.stdin.write(line.encode() + b"\n")
        self.started.stdin.flush()

    @property
    def taken_bytes(self) -> int:
        """Bytes that it holds now, all of them touched."""
        return int(self._progress.read_text() or 0)

    @property
    def finished(self) -> bool:
        """Whether it lives and has reached what it was last told."""
        return self.exit_code is None and self.taken_bytes == self._target_bytes

    @property
    def exit_code(self) -> int | None:
        """None while it lives; -9 when it was killed."""
        assert self.started is not None
        return self.started.poll()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until it is finished or dead; says whether it finished."""
        deadline = time.monotonic() + timeout_seconds
        while not self.finished and self.exit_code is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.finished
