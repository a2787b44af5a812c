"""Taking back what `init` wrote: each file as it was before, or without our lines; no other is touched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.cli.written import Entry, Record, below, read_text, replace_text
from ollama_guard.errors import GuardError


@dataclass(frozen=True, slots=True)
class Undone:
    """One thing that was undone, or (``ok`` False) was not, in one sentence that then holds the command."""

    ok: bool
    text: str


def undo_files(record: Record) -> Iterator[Undone]:
    """Take every file of the record back, the last one first, and the folders that were made for them."""
    for entry in reversed(list(record.entries.values())):
        try:
            yield _undo(record, entry)
        except PermissionError:
            text = f"{entry.path}: this user may not take it back; run it as root: sudo ollama-guard release"
            yield Undone(ok=False, text=text)
            continue
        except (GuardError, OSError) as problem:
            yield Undone(ok=False, text=f"{entry.path}: can't be taken back: {problem}")
            continue
        del record.entries[entry.path]
        record.save()


def forget(record: Record) -> Iterator[Undone]:
    """Remove the record itself and the folders that were made, once nothing is left in them."""
    if record.entries:
        return
    record.file.unlink(missing_ok=True)
    for folder in record.drop_folders():
        yield Undone(ok=True, text=f"removed the empty folder {folder}")


def _undo(record: Record, entry: Entry) -> Undone:
    path = below(record.root, Path(entry.path))
    copy = below(record.root, Path(entry.copy)) if entry.copy else None
    now, before = read_text(path), read_text(copy) if copy else None
    if now is None:
        kept = f"; what it was before is in {entry.copy}" if entry.copy else ""
        return Undone(ok=True, text=f"{entry.path}: somebody has removed it already{kept}")
    if before is not None and now == before and copy is not None:
        copy.unlink()
        return Undone(ok=True, text=f"{entry.path} is as it was before")
    if now != entry.written:
        return _without_ours(path, entry, now)
    if entry.basis and entry.basis != before:
        replace_text(path, entry.basis)  # what the owner wrote into ours meanwhile stays
        return Undone(ok=True, text=f"{entry.path} is as you had written it last")
    if copy is None:
        path.unlink()
        return Undone(ok=True, text=f"removed {entry.path}")
    if before is None:
        return Undone(
            ok=False,
            text=f"{entry.path}: its kept copy {entry.copy} is gone; if you don't need it: rm {path}",
        )
    copy.replace(path)
    return Undone(ok=True, text=f"{entry.path} is as it was before")


def _without_ours(path: Path, entry: Entry, now: str) -> Undone:
    """A file that was edited since: of a unit's drop-in our lines go, anything else is left to its owner.

    The guard's own configuration does nothing to Ollama, so that it stays is no failure.
    """
    if path.suffix != ".conf":
        kept = f" (before init it was {entry.copy})" if entry.copy else ""
        text = f"{entry.path} was edited since init wrote it and stays{kept}"
        if path.suffix == ".toml":
            return Undone(ok=True, text=text)
        return Undone(ok=False, text=f"{text}; if you don't need it: rm {shlex.quote(str(path))}")
    ours = set(entry.written.splitlines())
    left = [line for line in now.splitlines() if line not in ours or line == "[Service]"]
    if any(line.strip() and not line.startswith(("#", ";", "[")) for line in left):
        replace_text(path, "\n".join([*left, ""]))
        return Undone(ok=True, text=f"{entry.path}: our lines are gone, yours stay")
    path.unlink()
    return Undone(ok=True, text=f"removed {entry.path}")
