"""Bringing hidden models back without a daemon: their manifests are renamed back, nothing is overwritten.

Root does this in folders that others may write to, so each step is opened relative to the one above, and
never through a link.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from ollama_guard.cli.undoing import Undone

HIDDEN = "quarantine."
"""How the host's folder of a hidden model begins, below ``manifests`` (design, section 6)."""
USUAL_FOLDERS = ("/usr/share/ollama/.ollama/models", "/root/.ollama/models")
"""Where models lie when nothing says otherwise (facts 5.1): the installer's, and root's."""
# Bytes of a manifest that are compared; one has one to two thousand.
_LARGEST_MANIFEST = 1024 * 1024
# O_NONBLOCK: opening a named pipe would wait for ever for its other end.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OPEN_FOLDER = _OPEN | os.O_DIRECTORY

Parts = tuple[str, str, str, str]  # host, namespace, model, tag


def unhide(folders: Iterable[Path]) -> Iterator[Undone]:
    """Rename every hidden manifest of these model folders back; yields each, and each that could not be."""
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        with ExitStack() as stack:
            try:
                models = os.open(
                    folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
                )  # it may be a link itself
                stack.callback(os.close, models)
                top = _below(stack, models, "manifests")
            except OSError:
                continue
            status = os.fstat(top)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield from _all_back(top, folder / "manifests")


def _all_back(top: int, shown: Path) -> Iterator[Undone]:
    hidden = [parts for parts in _manifests(top, ()) if parts[0].startswith(HIDDEN)]
    for parts in sorted(hidden):
        host, namespace, model, tag = parts
        back = (host.removeprefix(HIDDEN), namespace, model, tag)
        title, command = f"{model}:{tag}", _move(shown, parts, back)
        try:
            moved = _restored(top, parts, back)
        except OSError as problem:
            yield Undone(ok=False, text=f"{title} is still hidden: {problem}; as root: {command}")
            continue
        if moved:
            yield Undone(ok=True, text=f"{title} is back")
        else:
            text = f"{title}: another model has that name now, and the hidden one stays"
            yield Undone(ok=False, text=f"{text}; to have it instead: {command}")


def _restored(top: int, hidden: Parts, back: Parts) -> bool:
    """Move one back; False where another manifest has its name. The same one may be there already."""
    with ExitStack() as stack:
        source = target = top
        for name in hidden[:3]:
            source = _below(stack, source, name)
        for name in back[:3]:
            target = _below(stack, target, name, make=True)
        try:
            os.link(hidden[3], back[3], src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileExistsError:
            if _content(stack, source, hidden[3]) != _content(stack, target, back[3]):
                return False
        os.unlink(hidden[3], dir_fd=source)
        os.fsync(target)
    for depth in (3, 2, 1):
        with ExitStack() as stack, contextlib.suppress(OSError):  # others may be hidden in there
            folder = top
            for name in hidden[: depth - 1]:
                folder = _below(stack, folder, name)
            os.rmdir(hidden[depth - 1], dir_fd=folder)
    return True


def _manifests(folder: int, above: tuple[str, ...]) -> Iterator[Parts]:
    """Every regular file exactly four levels below ``manifests``."""
    for name in os.listdir(folder):
        with ExitStack() as stack, contextlib.suppress(OSError):
            if len(above) == 3:
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    yield above[0], above[1], above[2], name
                continue
            yield from _manifests(_below(stack, folder, name), (*above, name))


def _below(stack: ExitStack, above: int, name: str, *, make: bool = False) -> int:
    """A folder in a folder; one that is made belongs to whom the one above does: it is Ollama's as well."""
    if make:
        with contextlib.suppress(FileExistsError):
            status = os.fstat(above)
            os.mkdir(name, stat.S_IMODE(status.st_mode), dir_fd=above)
            with contextlib.suppress(PermissionError):
                os.chown(name, status.st_uid, status.st_gid, dir_fd=above, follow_symlinks=False)
    folder = os.open(name, _OPEN_FOLDER, dir_fd=above)
    stack.callback(os.close, folder)
    return folder


def _content(stack: ExitStack, folder: int, name: str) -> bytes:
    file = os.open(name, _OPEN, dir_fd=folder)
    stack.callback(os.close, file)
    return os.read(file, _LARGEST_MANIFEST)


def _move(shown: Path, hidden: Parts, back: Parts) -> str:
    return f"mv {shlex.quote(str(shown.joinpath(*hidden)))} {shlex.quote(str(shown.joinpath(*back)))}"
