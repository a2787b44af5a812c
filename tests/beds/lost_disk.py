"""A disk that answers until it is lost: one program on a FUSE file system of our own. Needs root.

Who runs the program then waits in the kernel for its next instruction: state D, ended by SIGKILL alone.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from pathlib import Path
from typing import Self

from beds.disks import ENOSYS, GETATTR, IN_HEADER, INIT, OUT_HEADER, fuse_disk, reply

# linux/fuse.h, protocol 7.31.
_LOOKUP, _FORGET, _OPEN, _READ, _BATCH_FORGET = 1, 2, 14, 15, 42
_NEVER_ANSWERED = (_FORGET, _BATCH_FORGET)
_ASYNC_READ, _READ_AHEAD_BYTES = 1, 1 << 17
_INIT_OUT = struct.pack("=IIIIHHIIHH32x", 7, 31, _READ_AHEAD_BYTES, _ASYNC_READ, 8, 8, 1 << 16, 1, 0, 0)
_ATTR = struct.Struct("=6Q10I")
_READ_IN = struct.Struct("=QQI")
_INVALIDATE_INODE = struct.Struct("=Qqq")
_NOTIFY_INVALIDATE_INODE = 2
_ROOT, _PROGRAM = 1, 2
_ENOENT = 2
_VALID_SECONDS = 3600


class LostDisk:
    """A file system at ``path`` that holds one program, ``path / program.name``; entered, it is mounted."""

    def __init__(self, path: Path, program: Path) -> None:
        self.path = path
        self.program = path / program.name
        self._source = program
        self._lost = False
        self._lock = threading.Lock()
        self._held: list[tuple[int, bytes]] = []
        self._fuse = self._file = -1
        self._loser: threading.Thread | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._file = os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._file)
            self._fuse = stack.enter_context(fuse_disk(self.path, "lost", self._answer))
            stack.callback(self._settle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lose(self) -> None:
        """From now on nothing is read from it; what the page cache held of the program is gone as well."""
        with self._lock:
            self._lost = True
        self._loser = threading.Thread(target=self._invalidate, daemon=True)
        self._loser.start()

    def find(self) -> None:
        """It answers again, also what was asked meanwhile."""
        with self._lock:
            self._lost = False
            for unique, request in self._held:
                self._read(unique, request)
            self._held.clear()

    def _settle(self) -> None:
        """Nobody waits any more, the thread of `lose` included."""
        self.find()
        if self._loser is not None:
            self._loser.join(5)

    def _invalidate(self) -> None:
        """Have the kernel forget the program's pages; it waits here for those that are just being read."""
        body = _INVALIDATE_INODE.pack(_PROGRAM, 0, -1)
        with contextlib.suppress(OSError):
            os.write(
                self._fuse, OUT_HEADER.pack(OUT_HEADER.size + len(body), _NOTIFY_INVALIDATE_INODE, 0) + body
            )

    def _answer(self, fuse: int, request: bytes) -> None:
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        if opcode == INIT:
            reply(fuse, unique, _INIT_OUT)
        elif opcode == GETATTR:
            reply(fuse, unique, struct.pack("=QII", _VALID_SECONDS, 0, 0) + self._attr(node))
        elif opcode == _LOOKUP and request[IN_HEADER.size : -1] == os.fsencode(self.program.name):
            entry = struct.pack("=QQQQII", _PROGRAM, 1, _VALID_SECONDS, _VALID_SECONDS, 0, 0)
            reply(fuse, unique, entry + self._attr(_PROGRAM))
        elif opcode == _LOOKUP:
            reply(fuse, unique, b"", _ENOENT)
        elif opcode == _OPEN:
            reply(fuse, unique, struct.pack("=QII", 0, 0, 0))
        elif opcode == _READ:
            with self._lock:
                if self._lost:
                    self._held.append((unique, request))
                else:
                    self._read(unique, request)
        elif opcode not in _NEVER_ANSWERED:
            reply(fuse, unique, b"", ENOSYS)

    def _read(self, unique: int, request: bytes) -> None:
        _, offset, size = _READ_IN.unpack_from(request, IN_HEADER.size)
        with contextlib.suppress(OSError):  # who asked may have been killed meanwhile
            reply(self._fuse, unique, os.pread(self._file, size, offset))

    def _attr(self, node: int) -> bytes:
        size = os.fstat(self._file).st_size if node == _PROGRAM else 0
        mode = 0o100755 if node == _PROGRAM else 0o40755
        return _ATTR.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
