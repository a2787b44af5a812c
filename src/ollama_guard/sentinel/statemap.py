"""The state map: what must survive a kill -9 of the guard, in a small preallocated file under ``/run``.

Two slots are written in turn, each with a sequence number and a checksum over everything, so that a
death between any two writes leaves the older slot whole. No fsync: after a power cut the boot id differs
and the map is void anyway. All times inside are CLOCK_BOOTTIME, valid only within one boot.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from pathlib import Path

from ollama_guard.core.codec import CodecError, from_plain, to_plain
from ollama_guard.core.state import Durable

SLOT_BYTES = 64 * 1024
_SLOTS = 2
_MAGIC = b"OGSTATE1"
# magic, sequence, payload length, checksum of (sequence, boot id, payload), boot id
_HEADER = struct.Struct("=8sQII36s")
_SEQUENCE = struct.Struct("=Q")


class StateMap:
    """The file ``state`` of one runtime directory, mapped into memory."""

    def __init__(self, path: Path, boot_id: str) -> None:
        """Open or create the map at its full size.

        Raises:
            OSError: the file can't be created or sized (no space, no permission, a symbolic link).
        """
        self._boot_id = boot_id.encode("ascii", "replace").ljust(36)[:36]
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, SLOT_BYTES * _SLOTS)
            self._map = mmap.mmap(fd, SLOT_BYTES * _SLOTS)
        finally:
            os.close(fd)
        self._sequence = max((slot[0] for slot in map(self._read, range(_SLOTS)) if slot), default=0)
        self._stored: Durable | None = None

    def load(self) -> tuple[Durable | None, str]:
        """The newest whole slot of this boot, or None and why there is none ("" = never written)."""
        if not any(self._map[:]):
            return None, ""
        whole = [slot for slot in map(self._read, range(_SLOTS)) if slot]
        if not whole:
            return None, "the state map is damaged"
        reason = "the state map is from before the last boot"
        for _, boot_id, payload in sorted(whole, reverse=True):
            if boot_id != self._boot_id:
                continue
            try:
                self._stored = from_plain(Durable, json.loads(payload))
            except (ValueError, RecursionError) as error:
                what = str(error) if isinstance(error, CodecError) else "not JSON"
                reason = f"the state map was written by another version ({what})"
            else:
                return self._stored, ""
        return None, reason

    def store(self, durable: Durable) -> str:
        """Write what changed since the last call into the older slot; "" or why it could not be kept."""
        if durable == self._stored:
            return ""
        payload = json.dumps(to_plain(durable), separators=(",", ":")).encode()
        if len(payload) > SLOT_BYTES - _HEADER.size:
            return f"the state takes {len(payload)} bytes, more than the {SLOT_BYTES} of its slot"
        self._sequence += 1
        start = self._sequence % _SLOTS * SLOT_BYTES
        checksum = _checksum(self._sequence, self._boot_id, payload)
        header = _HEADER.pack(_MAGIC, self._sequence, len(payload), checksum, self._boot_id)
        self._map[start + _HEADER.size : start + _HEADER.size + len(payload)] = payload
        self._map[start : start + _HEADER.size] = header
        self._stored = durable
        return ""

    def close(self) -> None:
        """Unmap the file; its content stays."""
        self._map.close()

    def _read(self, index: int) -> tuple[int, bytes, bytes] | None:
        """One slot as (sequence, boot id, payload), or None if it is empty or torn."""
        start = index * SLOT_BYTES
        magic, sequence, length, checksum, boot_id = _HEADER.unpack_from(self._map, start)
        if magic != _MAGIC or length > SLOT_BYTES - _HEADER.size:
            return None
        payload = self._map[start + _HEADER.size : start + _HEADER.size + length]
        if _checksum(sequence, boot_id, payload) != checksum:
            return None
        return sequence, boot_id, payload


def _checksum(sequence: int, boot_id: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(boot_id, zlib.crc32(_SEQUENCE.pack(sequence))))
