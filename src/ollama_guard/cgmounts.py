"""Where the kernel's cgroup trees are mounted: the text of /proc/PID/mountinfo, for both processes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted cgroup tree: ``root`` is the cgroup at its mount point, as this namespace says it."""

    version: int
    root: str
    point: str


def parse_mounts(mountinfo: bytes, controller: bytes = b"memory") -> tuple[Mount, ...]:
    """The cgroup v2 trees and the v1 trees of one controller in a /proc/PID/mountinfo text."""
    mounts = []
    for line in mountinfo.split(b"\n"):
        before, _, after = line.partition(b" - ")
        left, right = before.split(b" "), after.split(b" ")
        if len(left) < 5 or len(right) < 3:
            continue
        if right[0] == b"cgroup2":
            mounts.append(Mount(2, _unescaped(left[3]), _unescaped(left[4])))
        elif right[0] == b"cgroup" and controller in right[2].split(b","):
            mounts.append(Mount(1, _unescaped(left[3]), _unescaped(left[4])))
    return tuple(mounts)


def _unescaped(field: bytes) -> str:
    """A mountinfo field: white space and backslashes are written in octal."""
    plain = _OCTAL.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), field)
    return plain.decode("utf-8", "backslashreplace")
