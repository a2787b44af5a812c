"""Alerts on disk until they are delivered: one small file each, so that they survive a kill -9 of hands.

Every call here may take as long as the disk likes: they belong into a lane.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ollama_guard.errors import AlertFailed

# Bytes of one file that are read: an alert takes 2 to 4 KiB.
FILE_LIMIT = 64 * 1024
_NAME = re.compile(r"\d{13,16}-\d{4}\.json")
_UNFINISHED = re.compile(r"\.\d{13,16}-\d{4}\.json\.new")


class Spool:
    """The files of one folder; a name is ``<milliseconds>-<number>.json``, so that names sort by age."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def read(self) -> list[tuple[str, bytes]]:
        """What lies there, the oldest first; of more than may be kept only the newest.

        Raises:
            AlertFailed: the folder can't be read.
        """
        try:
            return [(name, self._content(name)) for name in sorted(self._names())[-self._limit :]]
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise self._failed("read", problem) from problem

    def keep(self, alerts: Mapping[str, bytes]) -> None:
        """Have just these lie there: what is missing is written, whole or not at all, and the rest goes.

        Raises:
            AlertFailed: the disk is full, read-only or broken.
        """
        try:
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            there = self._names()
            for name in there - alerts.keys():
                self._unlink(name)
            for name in sorted(alerts.keys() - there):
                self._write(name, alerts[name])
        except OSError as problem:
            raise self._failed("write", problem) from problem

    def _names(self) -> set[str]:
        """What lies there; what a killed writer left half done goes."""
        everything = [path.name for path in self._folder.iterdir()]
        for name in filter(_UNFINISHED.fullmatch, everything):
            self._unlink(name)
        return set(filter(_NAME.fullmatch, everything))

    def _write(self, name: str, body: bytes) -> None:
        new = self._folder / f".{name}.new"
        with open(new, "wb", opener=_private) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())  # what is told of may end in a reset of the machine
        new.replace(self._folder / name)

    def _content(self, name: str) -> bytes:
        with (self._folder / name).open("rb") as file:
            return file.read(FILE_LIMIT)

    def _unlink(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def _failed(self, verb: str, problem: OSError) -> AlertFailed:
        return AlertFailed(f"can't {verb} {self._folder}: {problem.strerror}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
