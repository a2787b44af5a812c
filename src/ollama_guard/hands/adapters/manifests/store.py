"""`ModelStorePort` on Ollama's own folder: models are hidden by renaming their manifests (design, section 6).

Every step below the folder is opened relative to the one above and without following links, so that who may
write in there can't make the guard rename anything elsewhere. Nothing is ever overwritten. A manifest under
``manifests/quarantine.<host>/`` is a name like any other to Ollama, so its blobs survive the prune at the
next start; `mv` brings it back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ollama_guard.core import naming
from ollama_guard.core.events import one_line
from ollama_guard.core.quarantined import Hidden, QuarantineEntry
from ollama_guard.errors import StoreFailed
from ollama_guard.hands.adapters.foreign import count
from ollama_guard.hands.adapters.manifests.folders import made, unwritable_below
from ollama_guard.hands.adapters.manifests.renaming import rename_new
from ollama_guard.hands.adapters.manifests.tree import (
    ManifestFile,
    inside,
    opened,
    spelled,
)

# Manifests that are read in one pass; each name of each model is one.
_MOST_MANIFESTS = 5000
# Seconds since the last write that a partial download, or a blob without its name yet, counts as under way:
# Ollama writes several times a second, and a stalled download tries again after 30 s.
_BUSY_SECONDS = 60.0
_MODEL_LAYER = "application/vnd.ollama.image.model"
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest: its name, its text, its digest (hex, as ``/api/tags`` tells it), its weights' blob."""

    name: naming.Name
    text: str
    digest: str
    blob: str | None
    size_bytes: int | None
    changed_at: float


class Manifests:
    """The store in ``folder`` (OLLAMA_MODELS as this process sees it)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def hide(self, name: str) -> QuarantineEntry:
        """Rename a name's manifest away, offline; repeating it changes nothing."""
        asked = _parsed(name)
        with contextlib.ExitStack() as stack, self._told(name):
            source = self._find(stack, asked)
            shown = asked if source is None else source.name
            alias = naming.alias_of(shown)
            if alias is None:
                raise StoreFailed(f"{shown.shown} can't be hidden: it is, or its host's name is too long")
            target = self._find(stack, alias)
            if source is None and target is None:
                raise StoreFailed(f"no model named {shown.shown} is installed in {self.folder}")
            if source is not None:
                self._move(stack, source, target, alias)
            return _entry(self.read(alias.shown))

    def restore(self, name: str) -> None:
        """Rename it back. Refused where a manifest of that name is there again, unless it is the same one."""
        asked = _parsed(name)
        asked = naming.original_of(asked) or asked
        alias = naming.alias_of(asked)
        if alias is None:
            raise StoreFailed(f"{asked.shown} can't have been hidden")
        with contextlib.ExitStack() as stack, self._told(name):
            source, target = self._find(stack, alias), self._find(stack, asked)
            if source is not None:
                self._move(stack, source, target, naming.original_of(source.name) or asked)
                self._sweep(source.name)
            elif target is None:
                raise StoreFailed(f"{asked.shown} is not hidden in {self.folder}")

    def read(self, name: str) -> Manifest:
        """One manifest, its name as it is spelled there."""
        with contextlib.ExitStack() as stack, self._told(name):
            place = self._find(stack, _parsed(name))
            if place is None:
                raise StoreFailed(f"no model named {name} is installed in {self.folder}")
            return _judged(place.name, place.read())

    def all(self) -> tuple[Manifest, ...]:
        """Every manifest that can be read, hidden ones too."""
        found: list[Manifest] = []
        with contextlib.ExitStack() as stack, self._told("manifests"):
            self._walk(stack, stack.enter_context(inside(self.folder, "manifests")), (), found)
        return tuple(found)

    def unwritable(self) -> str:
        """Why manifests can't be renamed here, "" if they can; by the folders' rights and this user's."""
        with self._told("manifests"), inside(self.folder, "manifests") as top:
            return unwritable_below(top, f"{self.folder}/manifests")

    def busy(self) -> str:
        """A sentence while a pull or create writes blobs, else ""."""
        try:
            with inside(self.folder, "blobs") as blobs, os.scandir(blobs) as entries:
                odd = [entry.name for entry in entries if not _BLOB.fullmatch(entry.name)]
                for name in odd:
                    with contextlib.suppress(FileNotFoundError):
                        age = time.time() - os.stat(name, dir_fd=blobs, follow_symlinks=False).st_mtime
                        if age < _BUSY_SECONDS:
                            return f"a pull or create wrote {one_line(name, 40)} {max(0.0, age):.0f} s ago"
        except OSError:
            pass  # what can't be looked into says nothing
        return ""

    def _move(
        self, stack: contextlib.ExitStack, source: ManifestFile, target: ManifestFile | None, to: naming.Name
    ) -> None:
        """Rename, or take the source away where the target is the same manifest already."""
        if target is not None:
            if source.read()[0] != target.read()[0]:
                raise StoreFailed(
                    f"{to.shown} is another model now than the one kept as {source.name.shown}"
                    if not to.hidden
                    else f"{source.name.shown} is another model now than the one kept as {to.shown}"
                )
            os.unlink(source.name.tag, dir_fd=source.folder)
            os.fsync(source.folder)
            return
        folder = stack.enter_context(inside(self.folder, "manifests"))
        try:
            for part in to.parts[:3]:
                folder = stack.enter_context(made(folder, part, ours=to.hidden))
        except StoreFailed:
            if to.hidden:
                self._sweep(to)
            raise
        source.read()  # refuses what is no regular file
        rename_new(source.folder, source.name.tag, folder, to.tag)
        # The new place first: a power cut in between leaves it in one of the two, or in both.
        os.fsync(folder)
        os.fsync(source.folder)

    def _find(self, stack: contextlib.ExitStack, name: naming.Name) -> ManifestFile | None:
        """Where a name's manifest lies, each step folded onto what is there (facts 5.1); None if nowhere."""
        folder = stack.enter_context(inside(self.folder, "manifests"))
        steps: list[str] = []
        for part in name.parts:
            step = spelled(folder, part)
            if step is None:
                return None
            steps.append(step)
            if len(steps) < len(name.parts):
                folder = stack.enter_context(opened(folder, step))
        return ManifestFile(folder, naming.Name(*steps))

    def _walk(
        self, stack: contextlib.ExitStack, folder: int, steps: tuple[str, ...], found: list[Manifest]
    ) -> None:
        for entry in sorted(os.listdir(folder)):
            if len(found) >= _MOST_MANIFESTS:
                return
            if len(steps) == 3:
                name = naming.of_parts(steps[0], steps[1], steps[2], entry)
                if name is not None:
                    with contextlib.suppress(OSError, StoreFailed):
                        found.append(_judged(name, ManifestFile(folder, name).read()))
                continue
            with (
                contextlib.suppress(NotADirectoryError, FileNotFoundError, PermissionError),
                opened(folder, entry) as below,
            ):
                self._walk(stack, below, (*steps, entry), found)

    def _sweep(self, name: naming.Name) -> None:
        """Take away the folders that a hidden manifest has left empty; others' stay."""
        for depth in (3, 2, 1):
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                folder = stack.enter_context(inside(self.folder, "manifests"))
                for part in name.parts[: depth - 1]:
                    folder = stack.enter_context(opened(folder, part))
                os.rmdir(name.parts[depth - 1], dir_fd=folder)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """The operating system's errors as ours."""
        try:
            yield
        except OSError as problem:
            why = "it is a link, which is not followed" if problem.errno == errno.ELOOP else problem.strerror
            raise StoreFailed(f"{one_line(name, 200)} in {self.folder}: {why}") from problem


def _parsed(text: str) -> naming.Name:
    name = naming.parse(text)
    if name is None:
        raise StoreFailed(f"{one_line(text, 200)!r} is no name of a model")
    if naming.is_misread(name.shown):
        raise StoreFailed(f"{name.shown} ends as models do that run elsewhere: it is left alone")
    return name


def _judged(name: naming.Name, content: tuple[bytes, float]) -> Manifest:
    raw, changed_at = content
    blob, size = None, None
    try:
        document: Any = json.loads(raw)
        layers = [*document["layers"], document["config"]]
        blob = next((_blob(x) for x in layers if x.get("mediaType") == _MODEL_LAYER), None)
        sizes = [count(layer.get("size")) for layer in layers]
        size = sum(each for each in sizes if each is not None) if None not in sizes else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # it is listed all the same, as Ollama lists a broken one in its log
    digest = hashlib.sha256(raw).hexdigest()
    return Manifest(name, raw.decode("utf-8", "replace"), digest, blob, size, changed_at)


def _blob(layer: dict[str, Any]) -> str | None:
    found = _DIGEST.fullmatch(str(layer.get("digest")))
    return None if found is None else f"sha256:{found['hex']}"


def entry_of(manifest: Manifest) -> QuarantineEntry | None:
    """What is known of a hidden model from its manifest alone; None for one that isn't hidden."""
    return None if naming.original_of(manifest.name) is None else _entry(manifest)


def _entry(manifest: Manifest) -> QuarantineEntry:
    name = naming.original_of(manifest.name) or manifest.name
    return QuarantineEntry(
        name=name.shown,
        alias=manifest.name.shown,
        blob=manifest.blob,
        how=Hidden.OFFLINE,
        since=manifest.changed_at,
        size_bytes=manifest.size_bytes,
    )
