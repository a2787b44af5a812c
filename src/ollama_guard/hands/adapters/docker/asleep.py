"""Whether to connect to Docker's usual socket would start a Docker that its owner has stopped.

With docker.socket systemd listens there, also after ``systemctl stop docker``, and starts Docker for whoever
connects. Who listens can't be asked without connecting, so this goes by what else there is to see; where that
does not prove it, Docker counts as awake.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_SOCKET, _PID_FILE = "run/docker.sock", "run/docker.pid"
# Where a unit may stand, the one that counts first.
_UNITS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
)
_DAEMON = "dockerd"


def is_asleep(path: str) -> bool:
    """Whether systemd alone listens at this socket: docker.socket is there, and no Docker runs.

    A Docker that runs has written its pid file, or is called dockerd where its owner chose another place for
    that. A socket that leads elsewhere (podman's, Docker Desktop's, a rootless one) is not docker.socket's.
    """
    return os.path.realpath(path) == str(_ROOT / _SOCKET) and _is_socket_unit() and not _runs()


def _is_socket_unit() -> bool:
    """A masked unit is a link to /dev/null, and listens nowhere."""
    units = (_ROOT / folder / "docker.socket" for folder in _UNITS)
    unit = next((unit for unit in units if os.path.lexists(unit)), None)
    return unit is not None and os.path.realpath(unit) != os.devnull


def _runs() -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError, OverflowError):
        try:
            os.kill(int((_ROOT / _PID_FILE).read_text(encoding="ascii")), 0)
        except PermissionError:
            return True  # another user's process; or a file that can't be read, which proves nothing
        return True
    commands = set(_commands())
    # Without sight of all processes (hidepid=) nothing is proven.
    return _DAEMON in commands or not (_ROOT / "proc/1/comm").exists()


def _commands() -> Iterator[str]:
    for comm in (_ROOT / "proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            yield comm.read_text(encoding="utf-8", errors="replace").strip()
