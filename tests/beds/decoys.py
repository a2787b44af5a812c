"""Programs that a careless guard would take for Ollama's: they must never be touched."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from beds.http import free_port
from beds.process import Launcher, Started, launch

_DISGUISE = Path(__file__).with_name("disguise.py")
_PROXY = Path(__file__).with_name("tcp_proxy.py")
_PARENT = "import subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))"
_PID_TRIES = 50

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
"""Whoever may write here chooses the next PID."""


class PidTakenError(Exception):
    """Somebody else has got the PID that a test wanted."""


def at_pid(pid: int, launcher: Launcher = launch) -> Launcher:
    """A launcher whose program gets just this PID, which must be free; it reads its standard input (a pipe).

    Raises (when it launches):
        PidTakenError: others were quicker every time, or have it now.
    """

    def start(argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
        waiting = ["/bin/sh", "-c", 'read -r _ && exec "$@"', "wait", *argv]
        for _ in range(_PID_TRIES):
            # Put back, or the next processes of the whole machine would get PIDs that others have just left.
            newest = LAST_PID.read_text()
            LAST_PID.write_text(str(pid - 1))
            try:
                started = launcher(waiting, env=env, **kwargs)
            finally:
                LAST_PID.write_text(newest)
            if started.pid == pid:
                started.stdin.write(b"\n")
                started.stdin.flush()
                return started
            started.stop()
            if Path(f"/proc/{pid}").exists():
                break
        raise PidTakenError(pid)

    return start


def parented(launcher: Launcher) -> Launcher:
    """A launcher whose program is the only child of the process that it starts."""
    return lambda argv, **kwargs: launcher([sys.executable, "-I", "-S", "-c", _PARENT, *argv], **kwargs)


class _Bystander:
    """A process of a test: ended with it, and asked whether somebody else has ended it."""

    started: Started | None = None

    def __exit__(self, *_: object) -> None:
        if self.started is not None:
            self.started.stop()

    @property
    def pid(self) -> int:
        """Its PID, as this machine numbers it."""
        assert self.started is not None
        return self.started.pid

    @property
    def alive(self) -> bool:
        """Whether nobody has ended it."""
        return self.started is not None and self.started.poll() is None


class Decoy(_Bystander):
    """A process that shows the `comm` and command line of another program, and holds memory.

    Enter it to start it; it ends with its test (end of file on its standard input).
    """

    def __init__(self, argv: Sequence[str], *, memory_bytes: int = 0, launcher: Launcher = launch) -> None:
        self.argv = list(argv)
        self._memory_bytes = memory_bytes
        self._launcher = launcher

    @classmethod
    def llama_server(cls, blob: Path, *, memory_bytes: int = 0, launcher: Launcher = launch) -> Self:
        """A user's own llama.cpp server on a file that looks like (or is) one of Ollama's blobs."""
        argv = ["/usr/local/bin/llama-server", "--model", str(blob), "--port", str(free_port())]
        return cls(argv, memory_bytes=memory_bytes, launcher=launcher)

    def __enter__(self) -> Self:
        # Its own command line must be exactly as long as the one it shows: the kernel gives no more room.
        plain = [sys.executable, "-I", "-S", str(_DISGUISE), str(self._memory_bytes)]
        shown, own = _length(self.argv), _length(plain)
        if shown <= own:
            self.argv += ["--alias", "x" * max(1, own + 2 - shown - len("--alias") - 2)]
            shown = _length(self.argv)
        plain.append("x" * (shown - own - 1))
        self.started = self._launcher(plain, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.started.stdin.write("\0".join(self.argv).encode() + b"\n")
        self.started.stdin.flush()
        answer = self.started.stdout.readline()
        if answer != b"ready\n":
            self.started.stop()
            raise RuntimeError(f"the decoy could not disguise itself: {answer!r}")
        return self


class TcpProxy(_Bystander):
    """A process that holds `port` and passes every connection on to 127.0.0.1:`upstream_port`."""

    def __init__(self, upstream_port: int, *, port: int | None = None, launcher: Launcher = launch) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._upstream_port = upstream_port
        self._launcher = launcher

    def __enter__(self) -> Self:
        argv = [sys.executable, "-I", "-S", str(_PROXY), str(self.port), str(self._upstream_port)]
        self.started = self._launcher(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.started.stdout.readline() != b"ready\n":
            self.started.stop()
            raise RuntimeError(f"no proxy can listen on port {self.port}")
        return self

    def hang(self) -> None:
        """From now on it takes requests and never answers."""
        self._say("hang")

    def block_ps_on_unload(self, seconds: float) -> None:
        """From the next unload that comes through here on, `/api/ps` waits this long."""
        self._say(f"block-ps {seconds}")

    def unloads(self) -> list[float]:
        """CLOCK_BOOTTIME at which each request for an unload came, since this was last asked."""
        return list(map(float, self._say("unloads")))

    def _say(self, line: str) -> list[str]:
        assert self.started is not None
        self.started.stdin.write(line.encode() + b"\n")
        self.started.stdin.flush()
        word, *told = self.started.stdout.readline().decode().split() or [""]
        if word != "ok":
            raise RuntimeError(f"the proxy did not take {line!r}")
        return told


def _length(argv: Sequence[str]) -> int:
    return sum(len(part.encode()) + 1 for part in argv)
