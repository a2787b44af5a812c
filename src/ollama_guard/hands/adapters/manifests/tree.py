"""Steps down Ollama's folder of manifests, each opened relative to the one above, never through a link."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ollama_guard.core import naming
from ollama_guard.errors import StoreFailed

# Bytes; a manifest has one to two thousand.
_LARGEST_MANIFEST = 1024 * 1024
# O_NONBLOCK: opening a named pipe would wait for ever for its other end.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OPEN_FOLDER = _OPEN | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A manifest's file: the open folder that it is in, and its name as it is spelled."""

    folder: int
    name: naming.Name

    def read(self) -> tuple[bytes, float]:
        """Its content, and when it was last renamed or written (epoch seconds)."""
        file = os.open(self.name.tag, _OPEN, dir_fd=self.folder)
        with os.fdopen(file, "rb", buffering=0) as reader:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise StoreFailed(f"{self.name.shown}: its manifest is no regular file")
            content = reader.read(_LARGEST_MANIFEST + 1)
        if len(content) > _LARGEST_MANIFEST:
            raise StoreFailed(f"{self.name.shown}: its manifest is larger than {_LARGEST_MANIFEST} bytes")
        return content, status.st_ctime


@contextlib.contextmanager
def opened(above: int | None, name: str) -> Iterator[int]:
    """A folder's descriptor. The models folder itself may be a link that the owner made, nothing below it."""
    flags = _OPEN_FOLDER & ~os.O_NOFOLLOW if above is None else _OPEN_FOLDER
    folder = os.open(name, flags, dir_fd=above)
    try:
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def inside(models: str, name: str) -> Iterator[int]:
    """``manifests`` or ``blobs`` of a models folder."""
    with opened(None, models) as above, opened(above, name) as folder:
        yield folder


def spelled(folder: int, part: str) -> str | None:
    """How a step is spelled in a folder: exactly so, else in the one other case that is there."""
    there = os.listdir(folder)
    if part in there:
        return part
    alike = [entry for entry in there if entry.lower() == part.lower()]
    if len(alike) > 1:
        raise StoreFailed(f"{' and '.join(sorted(alike))} differ in case only: Ollama can't tell them apart")
    return alike[0] if alike else None
