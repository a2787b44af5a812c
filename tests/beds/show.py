"""The demo as a stranger runs it, in surroundings of its own: what it leaves behind can be told."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from pathlib import Path
from typing import Self

from beds.guard import PROGRAM
from beds.process import Launcher, Started, launch

END_SECONDS = 2.0
"""How long it may take to clear everything away once it is told to end."""
SHOW_SECONDS = 100.0
"""More than any show lasts."""


class Show:
    """One run of the demo. Enter it to start it; its own TMPDIR tells what is its from all else.

    Args:
        arguments: what follows `demo` on the command line.
        terminal: columns and rows of a terminal of its own; None: a pipe.
        launcher: who starts it: this machine, or a cgroup.
    """

    def __init__(
        self, *arguments: str, terminal: tuple[int, int] | None = None, launcher: Launcher = launch
    ) -> None:
        self._argv = [str(PROGRAM), "demo", *arguments]
        self._terminal = terminal
        self._launcher = launcher
        self.temporary = Path(tempfile.mkdtemp(prefix="show-"))  # short: unix sockets live below it
        self.home = Path(tempfile.mkdtemp(prefix="show-home-"))
        self.output = b""
        self._reader = -1
        self._started: Started | None = None

    def __enter__(self) -> Self:
        environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.temporary),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }
        if self._terminal is None:
            self._reader, writer = os.pipe()
        else:
            self._reader, writer = pty.openpty()
            columns, rows = self._terminal
            termios.tcsetwinsize(writer, (rows, columns))
        self._started = self._launcher(
            self._argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(writer)
        os.set_blocking(self._reader, False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._started is not None and self._started.poll() is None:
            self._started.stop()
        self.hang_up()
        for pid in self.left_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def text(self) -> str:
        """What it wrote so far."""
        with contextlib.suppress(OSError):  # nothing yet; or a terminal whose other end is closed
            while self._reader >= 0 and (data := os.read(self._reader, 65536)):
                self.output += data
        return self.output.decode(errors="replace")

    def wait_text(self, wanted: str, seconds: float = SHOW_SECONDS) -> None:
        """Wait until it has written this."""
        deadline = time.monotonic() + seconds
        while wanted not in self.text:
            if self.exit_code is not None or time.monotonic() > deadline:
                raise AssertionError(f"not seen: {wanted}\n{self.text}")
            time.sleep(0.02)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._started is not None
        return self._started.poll()

    def signal(self, number: int) -> None:
        """Send a signal to its whole process group, as a terminal does with Ctrl-C; KILL to itself alone."""
        assert self._started is not None
        if number == signal.SIGKILL:
            self._started.signal(number)
        else:
            os.killpg(self._started.pid, number)

    def hang_up(self) -> None:
        """Close our end, as a terminal window or `head` does."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

    def wait(self, seconds: float = SHOW_SECONDS) -> int:
        """Wait for its end, reading on; returns its exit code."""
        deadline = time.monotonic() + seconds
        while self.exit_code is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running after {seconds} s:\n{self.text}")
            _ = self.text
            time.sleep(0.02)
        _ = self.text
        code = self.exit_code
        assert code is not None
        return code

    def left_processes(self) -> dict[int, str]:
        """Every process that it started and that lives: PID to command line."""
        mark = f"TMPDIR={self.temporary}\0".encode()
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        return found

    def left_files(self) -> list[Path]:
        """Every file that it left; the trace of a show that was seen to its end is meant to stay."""
        meant = {path for trace in self.traces() for path in (trace, *trace.parents)}
        return [p for place in (self.temporary, self.home) for p in place.rglob("*") if p not in meant]

    def traces(self) -> list[Path]:
        """What its guard has recorded, kept for `replay`."""
        return sorted((self.home / ".local" / "state" / "ollama-guard" / "demo").glob("trace-*.jsonl"))

    def replay(self) -> str:
        """What the command says that stands under the show, pasted into a shell.

        Raises:
            CalledProcessError: it did not decide the same again, or can't be read.
        """
        command = self.text.rstrip().splitlines()[-1]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        ran = subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return ran.stdout
