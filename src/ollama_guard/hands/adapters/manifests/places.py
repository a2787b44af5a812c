"""Where Ollama's models folder lies on this host.

Its own word (the paths that ``/api/show`` tells) is how the server's file system names it, which in a
container is another one: then its mount table tells where the same folder is mounted from here, so that it
is still found when the container is stopped. A folder is taken only when it provably is the server's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.core.model import ServerReading

# Where it lies when nothing says otherwise (facts 5.1): a container's, the installer's.
_USUAL = ("/root/.ollama/models", "/usr/share/ollama/.ollama/models")
# Bytes; an environment longer than this is not read further.
_LARGEST_FILE = 256 * 1024
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
# Blobs that are looked for before a folder is taken for the server's own.
_PROOFS = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the folder.

    ``configured`` is the owner's word, ``told`` Ollama's own, ``blobs`` (``sha256:…``) what must lie in it,
    ``remembered`` where it was found last, which counts while no server lives.
    """

    configured: str = ""
    told: str = ""
    blobs: tuple[str, ...] = ()
    servers: tuple[ServerReading, ...] = ()
    remembered: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """``path`` is the folder ("" = not found, ``why_not`` says why); ``lasting``: also without the server."""

    path: str = ""
    why_not: str = ""
    lasting: bool = True


def locate(wanted: Wanted, proc: Path = Path("/proc")) -> Place:
    """Where the models folder is, or why it can't be told."""
    if wanted.configured:
        if _holds_models(wanted.configured):
            return Place(wanted.configured)
        return Place(why_not=f"{wanted.configured} (models_folder) has no folder manifests that can be read")
    for server in wanted.servers:
        for inside in _candidates(proc / str(server.pid), wanted):
            place = _seen_from_here(proc / str(server.pid), inside)
            # Of several servers the first need not be the one whose models are told of.
            if place is not None and (len(wanted.servers) == 1 or _proven(place.path, wanted)):
                return place
    for path in (wanted.remembered if not wanted.servers else "", wanted.told):
        if path and _holds_models(path) and _proven(path, wanted):
            return Place(path)
    where = wanted.told or "its place"
    return Place(why_not=f"Ollama's models folder ({where}) can't be seen from here")


def _candidates(process: Path, wanted: Wanted) -> Iterator[str]:
    """How the server itself would name its folder, the surest first."""
    if wanted.told:
        yield wanted.told
        return
    environment = _environment(process)
    if models := environment.get("OLLAMA_MODELS"):
        yield models
        return
    if home := environment.get("HOME"):
        yield f"{home}/.ollama/models"
    yield from _USUAL


def _seen_from_here(process: Path, inside: str) -> Place | None:
    """The server's folder ``inside`` as this process reaches it."""
    if not inside.startswith("/") or ".." in inside.split("/"):
        return None
    through = f"{process}/root{inside}"
    if _same(f"{process}/ns/mnt", f"{process.parent}/self/ns/mnt"):
        return Place(inside) if _holds_models(inside) else None
    if not _holds_models(through) or _has_links(f"{process}/root", inside):
        return None
    path = _by_mounts(process, inside)
    return Place(path) if path else Place(through, lasting=False)


def _has_links(root: str, inside: str) -> bool:
    """Whether a step is a link: it means a place in the container, and would be taken for one here."""
    steps = inside.strip("/").split("/")
    return any(Path(root, *steps[:end]).is_symlink() for end in range(1, len(steps) + 1))


def _by_mounts(process: Path, inside: str) -> str:
    """Where the mount that holds ``inside`` is mounted from here, by both mount tables; "" if nowhere."""
    theirs = [mount for mount in _mounts(process / "mountinfo") if _below(inside, mount.point) is not None]
    holding = max(theirs, key=lambda mount: len(mount.point), default=None)
    if holding is None:
        return ""
    source = f"{holding.root.rstrip('/')}{_below(inside, holding.point)}"
    for mount in _mounts(process.parent / "self" / "mountinfo"):
        rest = _below(source, mount.root) if mount.device == holding.device else None
        if rest is not None:
            path = f"{mount.point.rstrip('/')}{rest}"
            if _same(path, f"{process}/root{inside}"):
                return path
    return ""


@dataclass(frozen=True, slots=True)
class _Mount:
    device: str
    root: str
    point: str


def _mounts(file: Path) -> list[_Mount]:
    """The lines of a mountinfo(5) file, their octal escapes undone."""
    found = []
    for line in _text(file).split("\n"):
        words = line.split(" ")
        if len(words) > 5:
            found.append(_Mount(words[2], _plain(words[3]), _plain(words[4])))
    return found


def _plain(word: str) -> str:
    """A path as it is, whatever its bytes; the kernel writes blanks and backslashes of one in octal."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(word)))


def _below(path: str, top: str) -> str | None:
    """The rest of ``path`` below ``top`` ("" for itself), None if it isn't."""
    top = top.rstrip("/")
    return path.removeprefix(top) if path == top or path.startswith(f"{top}/") else None


def _holds_models(path: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(path, "manifests").is_dir()
    return False


def _same(first: str, second: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(first).samefile(second)
    return False


def _proven(path: str, wanted: Wanted) -> bool:
    """Whether what Ollama says it has lies here; another server's folder can have the same path."""
    files = [blob.replace(":", "-") for blob in wanted.blobs[:_PROOFS]]
    with contextlib.suppress(OSError, ValueError):
        return all(Path(path, "blobs", file).exists() for file in files) and bool(
            files or path == wanted.remembered
        )
    return False


def _environment(process: Path) -> dict[str, str]:
    lines = _text(process / "environ").split("\0")
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _text(file: Path) -> str:
    """A file of /proc; "" where this process may not read it."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return os.fsdecode(opened.read(_LARGEST_FILE))
    return ""
