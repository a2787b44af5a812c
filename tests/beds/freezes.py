"""Three honest ways in which the Ollama of a container stops serving, while Docker says that it runs.

Each is entered before the container is made, since each needs something of it (`container`), and `begin`
freezes it. A new server in the same container is not frozen again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import threading
from pathlib import Path
from typing import Any, Protocol, Self

from beds.docker_ollama import ContainerOllama
from beds.lost_disk import LostDisk
from beds.process import alive
from beds.real_ollama import install_with_models


class Freeze(Protocol):
    """What `FREEZES` hold."""

    def __init__(self, folder: Path) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def container(self) -> dict[str, Any]:
        """Options of the container that is to be frozen."""

    def begin(self, server: ContainerOllama) -> None:
        """Freeze it."""


class StoppedServer:
    """Its server was sent SIGSTOP: state T."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def container(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def begin(self, server: ContainerOllama) -> None:
        """Stop the server, and nothing else."""
        os.kill(server.pid, signal.SIGSTOP)


class DeafLog:
    """Who reads its log has stopped reading: each request waits for its own log line. State S, no CPU time.

    A Docker daemon or a log shipper that hangs does just this. It reads on once the frozen server has gone.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.pipe"
        self._pipe = -1
        self._deaf_for = 0
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        os.mkfifo(self._path)
        # Both ends, so that the pipe outlives the servers that write to it.
        self._pipe = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._reader.join()
        os.close(self._pipe)

    @property
    def container(self) -> dict[str, Any]:
        """Its server writes into the pipe."""
        into = f'exec "$OLLAMA_GUARD_EXEC" "$1" >{self._path} 2>&1'
        binds = [f"{self._path.parent}:{self._path.parent}"]
        return {"entrypoint": ["/bin/sh", "-c", into, "ollama"], "binds": binds}

    def begin(self, server: ContainerOllama) -> None:
        """Stop reading, and fill what the pipe holds."""
        self._deaf_for = server.pid
        room = fcntl.fcntl(self._pipe, fcntl.F_GETPIPE_SZ)
        with contextlib.suppress(BlockingIOError):
            for _ in range(2 * room):
                os.write(self._pipe, b"\n")

    def _read(self) -> None:
        while not self._over.wait(0.02):
            if not (self._deaf_for and alive(self._deaf_for)) and select.select([self._pipe], [], [], 0)[0]:
                os.read(self._pipe, 1 << 20)


class LostProgram:
    """The disk that holds its program is lost: its next instruction is waited for in the kernel, state D.

    An image on network storage, or a Docker over FUSE, does just this. It is back once the frozen server has
    gone.
    """

    def __init__(self, folder: Path) -> None:
        self._disk = LostDisk(folder / "program", install_with_models().program)
        self._over = threading.Event()
        self._finder: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._disk.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._finder is not None:
            self._finder.join()
        self._disk.__exit__()

    @property
    def container(self) -> dict[str, Any]:
        """Its program lies on the disk."""
        return {
            "entrypoint": [str(self._disk.program)],
            "binds": [f"{self._disk.path}:{self._disk.path}:ro"],
        }

    def begin(self, server: ContainerOllama) -> None:
        """Lose the disk until this server is gone."""
        self._disk.lose()
        self._finder = threading.Thread(target=self._find_after, args=(server.pid,), daemon=True)
        self._finder.start()

    def _find_after(self, pid: int) -> None:
        while alive(pid) and not self._over.wait(0.02):
            pass
        self._disk.find()


FREEZES: dict[str, type[Freeze]] = {
    "stopped by a signal": StoppedServer,
    "an API that hangs": DeafLog,
    "a disk that is lost": LostProgram,
}
