"""Disks that fail: full, read-only, and one that never answers. All of them need root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from beds import BedUnavailable

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_FORCE, _MNT_DETACH = 1, 2

# linux/fuse.h, protocol 7.31.
GETATTR, _STATFS, INIT = 3, 17, 26
IN_HEADER = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
OUT_HEADER = struct.Struct("=IiQ")  # length, -errno, unique
_INIT_OUT = struct.pack("=IIIIHHIIHH32x", 7, 31, 0, 0, 1, 1, 1 << 16, 1, 0, 0)
_ROOT_ATTR = struct.pack("=QII6Q10I", 3600, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
ENOSYS = 38
_REQUEST_BYTES = 1 << 20


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[Path]:
    """A file system of 64 KiB at ``path`` without a free byte."""
    with _mounted(path, "size=64k"):
        with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        yield path


@contextlib.contextmanager
def read_only_disk(path: Path) -> Iterator[Path]:
    """An empty file system at ``path`` that refuses every write."""
    with _mounted(path, "ro,size=64k"):
        yield path


@contextlib.contextmanager
def hanging_disk(path: Path) -> Iterator[Path]:
    """A FUSE file system at ``path`` whose server takes every request and answers none.

    Whoever touches a file below waits in the kernel, and not even SIGKILL ends that, until this is left.
    """
    with fuse_disk(path, "hanging", _answer_nothing):
        yield path


@contextlib.contextmanager
def fuse_disk(path: Path, name: str, answer: Callable[[int, bytes], None]) -> Iterator[int]:
    """Mount a FUSE file system whose every request goes to ``answer``, in a thread; yields its descriptor."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as problem:
        raise BedUnavailable(f"no /dev/fuse: {problem}") from problem
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if _LIBC.mount(name.encode(), os.fsencode(path), b"fuse", 0, options) != 0:
        os.close(fuse)
        raise BedUnavailable(f"FUSE can't be mounted: {os.strerror(ctypes.get_errno())}")
    server = threading.Thread(target=_serve, args=(fuse, answer), daemon=True)
    server.start()
    try:
        yield fuse
    finally:
        # Forcing aborts the connection: all who wait get an error, the server's read too.
        _LIBC.umount2(os.fsencode(path), _MNT_FORCE)
        server.join(5)
        os.close(fuse)
        _LIBC.umount2(os.fsencode(path), _MNT_DETACH)


def _serve(fuse: int, answer: Callable[[int, bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            answer(fuse, os.read(fuse, _REQUEST_BYTES))


def _answer_nothing(fuse: int, request: bytes) -> None:
    """Say hello, show the root directory, and take everything else without an answer."""
    _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
    if opcode == INIT:
        reply(fuse, unique, _INIT_OUT)
    elif opcode == GETATTR:
        reply(fuse, unique, _ROOT_ATTR)
    elif opcode == _STATFS:  # so that nobody's `df` hangs on this
        reply(fuse, unique, b"", ENOSYS)


def reply(fuse: int, unique: int, body: bytes, error: int = 0) -> None:
    """Answer one request of the kernel's."""
    os.write(fuse, OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, unique) + body)


@contextlib.contextmanager
def _mounted(path: Path, options: str) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "guard-test", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BedUnavailable(f"tmpfs can't be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        _LIBC.umount2(os.fsencode(path), _MNT_DETACH)
