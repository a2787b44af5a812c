"""``quarantine.json`` in the state directory: written whole, flushed, and renamed into its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ollama_guard.core.codec import CodecError, from_plain, to_plain
from ollama_guard.core.hidden import Book
from ollama_guard.errors import StoreFailed
from ollama_guard.hands.journal import log

# Bytes that are read; a Modelfile with its licences has up to 100 KiB, and is kept for deleted models only.
_LARGEST = 16 * 1024 * 1024


class BookFile:
    """Reads and writes the book; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "quarantine.json"
        self._book: Book | None = None
        self._on_disk: Book | None = None
        self._failing = False

    def read(self) -> Book:
        """The book; an empty one where there is none, or none that can be understood (it is kept aside)."""
        if self._book is None:
            self._book = self._on_disk = self._from_disk()
        return self._book

    def note(self, book: Book) -> None:
        """As `write`, but a disk that fails costs one warning: it must not keep a model from being hidden."""
        try:
            self.write(book)
        except StoreFailed as problem:
            if not self._failing:
                log().warning("guard.warned", message=f"why models are hidden is not kept: {problem}")
            self._failing = True

    def write(self, book: Book) -> None:
        """Write it down so that it outlives a power cut; nothing is written that is there already.

        Raises:
            StoreFailed: the disk is full, read-only or gone; the book on it is as before.
        """
        self._book = book
        if book == self._on_disk:
            return
        new = self._path.with_suffix(".json.new")
        content = json.dumps(to_plain(book), indent=1).encode("ascii") + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640), "wb"
            ) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as problem:
            raise StoreFailed(f"can't write {self._path}: {problem.strerror}") from problem
        self._on_disk, self._failing = book, False

    def _from_disk(self) -> Book:
        try:
            with self._path.open("rb") as file:
                return from_plain(Book, json.loads(file.read(_LARGEST)))
        except FileNotFoundError:
            return Book()
        except (OSError, ValueError, CodecError, RecursionError) as problem:
            aside = self._path.with_suffix(".json.broken")
            text = f"{self._path} can't be read ({problem}): what is hidden is told from Ollama's store alone"
            try:
                self._path.replace(aside)
            except OSError:
                return Book()
            log().warning("guard.warned", message=f"{text}; the file is kept as {aside.name}")
            return Book()
