"""What `init` wrote, so that `release` can take just that away: each text, each kept copy, each new folder.

The record is written before the file that it tells of, so that a death between the two loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ollama_guard.core.policy import Policy
from ollama_guard.errors import GuardError
from ollama_guard.settings.compiler import DEFAULT_PATH, compile_file

RECORD = DEFAULT_PATH.parent / "written-by-init.json"
"""Beside the configuration, in root's own folder: whoever could write it, could have root remove any file."""
_VERSION = 1
_MODE = 0o644
GUARDS_USER = "ollama-guard"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: ``written`` is our text in it, ``copy`` the name of what was there before ("" = nothing).

    ``basis`` is the owner's text that ours was made from and takes over ("" = none was).
    """

    path: str
    written: str
    copy: str = ""
    basis: str = ""


@dataclass(slots=True)
class Record:
    """Everything that was written below ``root``; paths in it are without that prefix.

    ``folders`` are those that were made for it, ``environment`` the lines that a server then has from us.
    """

    root: Path
    file: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path) -> Record:
        """The record as it was left, an empty one where there is none.

        Raises:
            GuardError: it can't be read, or others could have written it.
        """
        record = cls(root, below(root, RECORD))
        try:
            status = record.file.stat()
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                raise GuardError(f"{record.file}: others than root can write it, so it is not believed")
            plain = json.loads(record.file.read_text(encoding="utf-8"))
            return record._filled(plain)
        except FileNotFoundError:
            return record
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise GuardError(f"{record.file}: what init wrote can't be read ({error})") from None

    def _filled(self, plain: Mapping[str, Any]) -> Record:
        self.entries = {entry["path"]: Entry(**entry) for entry in plain["entries"]}
        self.folders = [str(folder) for folder in plain["folders"]]
        self.environment = {str(key): str(value) for key, value in plain["environment"].items()}
        return self

    def save(self) -> None:
        """Write it, atomically."""
        self.make_folder(self.file.parent)
        plain = {
            "version": _VERSION,
            "entries": [asdict(entry) for entry in self.entries.values()],
            "folders": self.folders,
            "environment": self.environment,
        }
        replace_text(self.file, json.dumps(plain, indent=1) + "\n", self._readers())

    def _readers(self) -> tuple[int, int | None]:
        """(mode, group) of the record, which holds whole files: who can't read one can't read it."""
        mode, group = _MODE, None
        for path in self.entries:
            with contextlib.suppress(OSError):
                status = below(self.root, Path(path)).stat()
                if narrowed := mode & ~status.st_mode:
                    mode, group = mode & ~narrowed, status.st_gid
        return mode, group

    def text_of(self, path: str) -> str | None:
        """The text that is there now; None where there is none.

        Raises:
            GuardError: it is there and can't be read as text.
        """
        return read_text(below(self.root, Path(path)))

    def write(self, path: str, text: str, stamp: str, basis: str = "") -> str:
        """Put ``text`` there; returns where what was there is kept, "" if that was ours or nothing."""
        before, known = self.text_of(path), self.entries.get(path)
        copy = ""
        if before is not None and (known is None or before != known.written):
            copy = f"{path}.before-ollama-guard-{stamp}"
            keep_copy(below(self.root, Path(path)), below(self.root, Path(copy)))
        first = known.copy if known is not None else copy
        target = below(self.root, Path(path))
        self.make_folder(target.parent)
        self.entries[path] = Entry(path, text, first, basis)
        self.save()
        replace_text(target, text)
        return copy

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, and remember which are new."""
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        for one in reversed(missing):
            one.mkdir(mode=0o755)
            self.folders.append("/" + str(one.relative_to(self.root)))

    def make_environment_dir(self, folder: Path) -> None:
        """The folder of the guard's environment file: its user writes there, every container may read."""
        there = folder.exists()
        self.make_folder(folder)
        if not there:
            with contextlib.suppress(KeyError, PermissionError):
                owner = pwd.getpwnam(GUARDS_USER)
                os.chown(folder, owner.pw_uid, owner.pw_gid)

    def drop_folders(self) -> Iterator[str]:
        """Remove those folders that were made and are empty again; yields each."""
        for folder in sorted(self.folders, key=len, reverse=True):
            with contextlib.suppress(OSError):
                below(self.root, Path(folder)).rmdir()
                yield folder
        self.folders = []


def below(root: Path, path: Path) -> Path:
    """An absolute path as it lies below ``root``."""
    return root / path.relative_to("/")


def policy_below(root: Path, config: Path | None) -> Policy:
    """The policy of a file below ``root``; the defaults where none was named and there is none at its place.

    Raises:
        ConfigError: as `compile_file`.
    """
    path = below(root, config or DEFAULT_PATH)
    return compile_file(path) if config is not None or path.exists() else Policy()


def read_text(path: Path) -> str | None:
    """A file's text without a byte order mark, as the configuration is compiled; None where there is none.

    Raises:
        GuardError: it is there and can't be read as text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise GuardError(
            f"{path}: it is there and can't be read as text ({error}); it is left alone"
        ) from None


def replace_text(path: Path, text: str, readers: tuple[int, int | None] | None = None) -> None:
    """Replace a file as a whole, or not at all; its mode and owner stay, a new one is 0644.

    ``readers``: the mode and, if not None, the group that it gets instead.
    """
    there = path.stat() if path.exists() else None
    mode, group = readers or (_MODE if there is None else stat.S_IMODE(there.st_mode), None)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if there is not None and readers is None:
                os.fchown(descriptor, there.st_uid, there.st_gid)
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def keep_copy(path: Path, copy: Path) -> None:
    """Copy a file with its mode, owner and time; never over, or through, something that is there already."""
    status, content = path.stat(), path.read_bytes()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(copy, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
        os.fsync(file.fileno())
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def unwritable(path: Path) -> bool:
    """Whether this user could not write a file there, folders that are missing included."""
    path = _there(path)
    return not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))


def read_only(path: Path) -> bool:
    """Whether its file system takes no writes from anybody."""
    return bool(os.statvfs(_there(path)).f_flag & os.ST_RDONLY)


def _there(path: Path) -> Path:
    """The path, or the deepest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
