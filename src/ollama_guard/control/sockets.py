"""The unix sockets, bound by ourselves, and the server on them.

waitress' own ``unix_socket=`` unlinks whatever is there before it binds, also a live guard's socket. The
caller holds the guard's lock, so what is there is stale: ours is bound under another name, given its
mode and group, and only then put in its place, so that no client ever sees it half made.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
import threading
from pathlib import Path

import waitress.server

from ollama_guard.control.apps import Application
from ollama_guard.errors import ServiceUnavailable

# Bytes; a little above what the applications read, so that their own sentence is the answer.
_REQUEST_LIMIT = 64 * 1024
_HEADER_LIMIT = 16 * 1024
# Connections per socket; a person and a few scripts.
_CONNECTION_LIMIT = 64
# Seconds after which a connection without a request is closed: clients here are local, and ask at once.
_IDLE_SECONDS = 5
# Seconds between two looks at idle connections.
_LOOP_SECONDS = 5

# A wish that waits in line is served next: no news for the log, as the server's own library has it.
logging.getLogger("waitress.queue").setLevel(logging.ERROR)


class Face:
    """One bound socket with its application, served by threads of its own."""

    def __init__(self, path: Path, group: str, app: Application, threads: int) -> None:
        """Bind; raises `ServiceUnavailable` with a sentence."""
        self.path = path
        # "" or why the socket is for its owner alone.
        self.narrowed = ""
        try:
            self._socket, self.narrowed = _bound(path, group)
            self._inode = path.stat().st_ino
        except OSError as problem:
            raise ServiceUnavailable(f"can't listen on {path}: {problem.strerror}") from problem
        self._server = waitress.server.create_server(
            app,
            sockets=[self._socket],
            threads=threads,
            ident="ollama-guard",
            max_request_body_size=_REQUEST_LIMIT,
            max_request_header_size=_HEADER_LIMIT,
            connection_limit=_CONNECTION_LIMIT,
            channel_timeout=_IDLE_SECONDS,
            cleanup_interval=_LOOP_SECONDS,
            asyncore_loop_timeout=_LOOP_SECONDS,
            asyncore_use_poll=True,
        )

    def serve(self) -> None:
        """Serve from now on, in a daemon thread."""
        threading.Thread(target=self._server.run, name=self.path.name, daemon=True).start()

    def remove(self) -> None:
        """Take the socket's name away, unless a successor has put its own there."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


def _bound(path: Path, group: str) -> tuple[socket.socket, str]:
    """A listening socket for its owner and ``group``, or for its owner alone, and then why."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = _birthplace(path, group)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        # A socket's address holds 107 bytes, a path may be longer; by the descriptor it always fits.
        sock.bind(f"/proc/self/fd/{folder}/{new}")
        narrowed = _give_to_group(new, group, folder)
        sock.listen()
        os.rename(new, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock, narrowed


def _birthplace(path: Path, group: str) -> str:
    """Where the socket is made, seen from its folder: one that gives its group on (setgid), if there is one.

    The installed unit may not chown(2) anything, so tmpfiles.d makes ``.ollama-guard-admin`` for it.
    """
    return f".{group}/{path.name}" if (path.parent / f".{group}").is_dir() else f".{path.name}.new"


def _give_to_group(name: str, group: str, folder: int) -> str:
    """Mode 0660 only once the group is right: in our own group it would open to whoever is in that."""
    os.chmod(name, 0o600, dir_fd=folder)
    try:
        wanted = grp.getgrnam(group).gr_gid
        if os.stat(name, dir_fd=folder).st_gid != wanted:
            os.chown(name, -1, wanted, dir_fd=folder)
    except KeyError:
        return f"there is no group {group}"
    except PermissionError:
        return f"this user may not give it to the group {group}"
    os.chmod(name, 0o660, dir_fd=folder)
    return ""
