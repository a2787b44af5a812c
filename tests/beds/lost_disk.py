"""A disk that answers until it is lost: one program on a FUSE file system of our own. Needs root.

Who runs the program then waits in the kernel for its next instruction: state D, ended by SIGKILL alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from beds import BedUnavailable
from beds.disks import (
    ENOSYS,
    GETATTR,
    IN_HEADER,
    INIT,
    LIBC,
    MNT_DETACH,
    MNT_FORCE,
    OUT_HEADER,
    REQUEST_BYTES,
    reply,
)

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
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as problem:
            raise BedUnavailable(f"no /dev/fuse: {problem}") from problem
        self._file = os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if LIBC.mount(b"lost", os.fsencode(self.path), b"fuse", 0, options) != 0:
            reason = os.strerror(ctypes.get_errno())
            self._close()
            raise BedUnavailable(f"FUSE can't be mounted: {reason}")
        self._begin(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self.find()
        # Forcing aborts the connection: all who wait get an error, the server's read too.
        LIBC.umount2(os.fsencode(self.path), MNT_FORCE)
        for thread in self._threads:
            thread.join(5)
        LIBC.umount2(os.fsencode(self.path), MNT_DETACH)
        self._close()

    def lose(self) -> None:
        """From now on nothing is read from it; what the page cache held of the program is gone as well."""
        with self._lock:
            self._lost = True
        self._begin(self._invalidate)

    def find(self) -> None:
        """It answers again, also what was asked meanwhile."""
        with self._lock:
            self._lost = False
            for unique, request in self._held:
                self._read(unique, request)
            self._held.clear()

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _close(self) -> None:
        for file in (self._fuse, self._file):
            if file >= 0:
                os.close(file)
        self._fuse = self._file = -1

    def _invalidate(self) -> None:
        """Have the kernel forget the program's pages; it waits here for those that are just being read."""
        body = _INVALIDATE_INODE.pack(_PROGRAM, 0, -1)
        with contextlib.suppress(OSError):
            os.write(
                self._fuse, OUT_HEADER.pack(OUT_HEADER.size + len(body), _NOTIFY_INVALIDATE_INODE, 0) + body
            )

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._answer(os.read(self._fuse, REQUEST_BYTES))

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        if opcode == INIT:
            reply(self._fuse, unique, _INIT_OUT)
        elif opcode == GETATTR:
            reply(self._fuse, unique, struct.pack("=QII", _VALID_SECONDS, 0, 0) + self._attr(node))
        elif opcode == _LOOKUP and request[IN_HEADER.size : -1] == os.fsencode(self.program.name):
            entry = struct.pack("=QQQQII", _PROGRAM, 1, _VALID_SECONDS, _VALID_SECONDS, 0, 0)
            reply(self._fuse, unique, entry + self._attr(_PROGRAM))
        elif opcode == _LOOKUP:
            reply(self._fuse, unique, b"", _ENOENT)
        elif opcode == _OPEN:
            reply(self._fuse, unique, struct.pack("=QII", 0, 0, 0))
        elif opcode == _READ:
            with self._lock:
                if self._lost:
                    self._held.append((unique, request))
                else:
                    self._read(unique, request)
        elif opcode not in _NEVER_ANSWERED:
            reply(self._fuse, unique, b"", ENOSYS)

    def _read(self, unique: int, request: bytes) -> None:
        _, offset, size = _READ_IN.unpack_from(request, IN_HEADER.size)
        with contextlib.suppress(OSError):  # who asked may have been killed meanwhile
            reply(self._fuse, unique, os.pread(self._file, size, offset))

    def _attr(self, node: int) -> bytes:
        size = os.fstat(self._file).st_size if node == _PROGRAM else 0
        mode = 0o100755 if node == _PROGRAM else 0o40755
        return _ATTR.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
