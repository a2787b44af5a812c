"""A program on a terminal of its own: what it writes, keys pressed, the window resized."""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self


class OnTerminal:
    """A program whose standard streams are a terminal. Enter it to start it.

    Args:
        argv: the program.
        env: its environment.
        columns: how wide the window is.
        rows: how high.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self._argv, self._env = list(argv), {**env, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        self._ours, self._theirs = pty.openpty()
        termios.tcsetwinsize(self._ours, (rows, columns))
        self.modes_before = termios.tcgetattr(self._theirs)
        self._output = b""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv, env=self._env, stdin=self._theirs, stdout=self._theirs, stderr=self._theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one thread, in a test
        )  # fmt: skip
        os.set_blocking(self._ours, False)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def pid(self) -> int:
        """Its PID."""
        assert self._process is not None
        return self._process.pid

    @property
    def text(self) -> str:
        """What it wrote so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._ours, 65536):
                self._output += data
        return self._output.decode(errors="replace")

    @property
    def modes(self) -> list[Any]:
        """How the terminal is set: echo, line by line, and so on."""
        return termios.tcgetattr(self._theirs)

    def press(self, keys: str) -> None:
        """Type; Ctrl-C is chr(3)."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Another window size, told as a terminal tells it."""
        termios.tcsetwinsize(self._ours, (rows, columns))
        os.kill(self.pid, signal.SIGWINCH)

    def wait_text(self, wanted: str, seconds: float = 20.0, after: int = 0) -> int:
        """Wait until it has written this after a position; returns where it ends."""
        deadline = time.monotonic() + seconds
        while (found := self.text.find(wanted, after)) < 0:
            if time.monotonic() > deadline:
                raise AssertionError(f"not seen: {wanted}\n{self.text[after:]}")
            time.sleep(0.02)
        return found + len(wanted)

    def wait(self, seconds: float = 10.0) -> int:
        """Wait for its end, reading on; returns its exit code."""
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running after {seconds} s:\n{self.text}")
            _ = self.text
            time.sleep(0.02)
        return self._process.returncode
