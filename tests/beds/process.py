"""Starting and ending programs, on this machine or inside a bed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

STOP_SECONDS = 5.0
"""How long a program may take after SIGTERM before it is killed: Ollama ends its runners in about 0.2 s."""


@dataclass(frozen=True, slots=True)
class Started:
    """A program that a test started. `pid` is its own, as this machine's namespace numbers it."""

    process: subprocess.Popen[bytes]
    pid: int

    @property
    def stdin(self) -> IO[bytes]:
        """The writing end of its standard input (asked for with `stdin=PIPE`)."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The reading end of its standard output (asked for with `stdout=PIPE`)."""
        assert self.process.stdout is not None
        return self.process.stdout

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), or None while it runs."""
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired after `timeout` seconds."""
        return self.process.wait(timeout)

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """TERM, then KILL after `seconds`; returns the exit code and closes the pipes."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return self.process.returncode


class Launcher(Protocol):
    """Starts a program somewhere: on this machine, in a cgroup, inside a small host."""

    def __call__(  # noqa: D102 - the class says it
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> Started: ...


def launch(argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
    """Start `argv` on this machine. `kwargs` go to subprocess.Popen (stdin, stdout, stderr, cwd)."""
    process = subprocess.Popen(list(argv), env=None if env is None else dict(env), **kwargs)
    return Started(process, process.pid)


def children(pid: int) -> list[int]:
    """The PIDs of the children of all threads of `pid`; empty when it has gone."""
    return list(_children(pid))


def _children(pid: int) -> Iterator[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for task in tasks:
        with contextlib.suppress(OSError):
            yield from map(int, (task / "children").read_text().split())


def argv_of(pid: int) -> list[str]:
    """The command line of a process; empty when it has gone or is a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")] if raw else []


def environ_of(pid: int) -> dict[str, str]:
    """What a process was started with (its owner's and root's to read)."""
    lines = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def rss_bytes(pid: int) -> int:
    """Resident bytes of a process (statm); 0 when it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def anon_bytes(pid: int) -> int:
    """RssAnon of a process that lives."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
