"""Bringing hidden models back without a daemon: their manifests are renamed back, nothing is overwritten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ollama_guard.cli.undoing import Undone

HIDDEN = "quarantine."
"""How the host's folder of a hidden model begins, below ``manifests`` (design, section 6)."""
USUAL_FOLDERS = ("/usr/share/ollama/.ollama/models", "/root/.ollama/models")
"""Where models lie when nothing says otherwise (facts 5.1): the installer's, and root's."""


def unhide(folders: Iterable[Path]) -> Iterator[Undone]:
    """Rename every hidden manifest of these model folders back; yields each, and each that could not be."""
    seen: set[Path] = set()
    for folder in folders:
        manifests = folder / "manifests"
        with contextlib.suppress(OSError):
            manifests = manifests.resolve(strict=True)
        if manifests in seen:
            continue
        seen.add(manifests)
        for hidden in sorted(manifests.glob(f"{HIDDEN}*/*/*/*")):
            if hidden.is_file() and not hidden.is_symlink():
                yield _restored(manifests, hidden)
        _sweep(manifests)


def _restored(manifests: Path, hidden: Path) -> Undone:
    host, namespace, model, tag = hidden.relative_to(manifests).parts
    back = manifests / host.removeprefix(HIDDEN) / namespace / model / tag
    shown = f"{model}:{tag}"
    try:
        if back.exists():
            same = back.read_bytes() == hidden.read_bytes()
            if not same:
                text = f"{shown}: another model has that name now, and the hidden one stays"
                return Undone(ok=False, text=f"{text}; to have it instead: mv {hidden} {back}")
            hidden.unlink()
            return Undone(ok=True, text=f"{shown} had come back by itself; its hidden name is gone")
        _make_alike(back.parent, manifests)
        os.link(hidden, back, follow_symlinks=False)  # never overwrites, as a rename would
        hidden.unlink()
    except OSError as problem:
        return Undone(ok=False, text=f"{shown} is still hidden: {problem}; as root: mv {hidden} {back}")
    return Undone(ok=True, text=f"{shown} is back")


def _make_alike(folder: Path, above: Path) -> None:
    """Make a folder with the owner of the one that holds it: it is Ollama's as well."""
    there = above.stat()
    for part in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        part.mkdir(mode=there.st_mode & 0o7777)
        with contextlib.suppress(PermissionError):
            os.chown(part, there.st_uid, there.st_gid)


def _sweep(manifests: Path) -> None:
    """Folders of hidden models that are empty now."""
    for pattern in (f"{HIDDEN}*/*/*", f"{HIDDEN}*/*", f"{HIDDEN}*"):
        for folder in manifests.glob(pattern):
            with contextlib.suppress(OSError):
                folder.rmdir()
