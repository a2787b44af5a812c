"""Bringing hidden models back without a daemon: their manifests are renamed back, nothing is overwritten."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from ollama_guard.cli.undoing import Undone
from ollama_guard.core import naming
from ollama_guard.errors import StoreFailed
from ollama_guard.hands.adapters.manifests import Manifests

USUAL_FOLDERS = ("/usr/share/ollama/.ollama/models", "/root/.ollama/models")
"""Where models lie when nothing says otherwise (facts 5.1): the installer's, and root's."""


def unhide(folders: Iterable[Path]) -> Iterator[Undone]:
    """Rename every hidden manifest of these model folders back; yields each, and each that could not be."""
    seen: set[Path] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            real = folder.resolve(strict=True)
            if real not in seen and (real / "manifests").is_dir():
                seen.add(real)
                yield from _all_back(real)


def _all_back(folder: Path) -> Iterator[Undone]:
    store = Manifests(str(folder))
    try:
        hidden = sorted((manifest.name for manifest in store.all() if manifest.name.hidden), key=str)
    except StoreFailed as problem:
        yield Undone(ok=False, text=f"which models are hidden in {folder} can't be told: {problem}")
        return
    for alias in hidden:
        name = naming.original_of(alias)
        if name is None:
            continue
        try:
            store.restore(alias.shown)
        except StoreFailed as problem:
            paths = (str(folder.joinpath("manifests", *one.parts)) for one in (alias, name))
            command = f"mv {' '.join(map(shlex.quote, paths))}"
            yield Undone(
                ok=False, text=f"{name.shown} is still hidden: {problem}; to have it back: {command}"
            )
        else:
            yield Undone(ok=True, text=f"{name.shown} is back")
