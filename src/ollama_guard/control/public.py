"""The status as a file for those who can only read files; replaced atomically."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_guard.errors import ServiceUnavailable


def write_status(folder: Path, document: Mapping[str, Any]) -> None:
    """Replace ``folder/status.json``; readers see the old or the new one, never a part.

    Without fsync: after a crash of the machine an old status is as good as none, and a flush a second
    would wear the disk.

    Raises:
        ServiceUnavailable: with a sentence, when the disk is full, read-only or not there.
    """
    path = folder / "status.json"
    new = folder / ".status.json.new"
    content = json.dumps(document).encode("ascii") + b"\n"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)  # whatever the umask says: others are whom it is for
        _write(new, content)
        new.replace(path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            new.unlink()
        raise ServiceUnavailable(f"can't write {path}: {problem.strerror}") from problem


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)  # as the folder
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
