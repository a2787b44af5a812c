"""Folders that the guard makes among Ollama's manifests: open to whoever uses the one above, or not made.

Ollama's own look at its manifests skips a folder that it can't read and says nothing; then the blobs of what
is hidden in there belong to no name, and its next start deletes them. And it does not start where it can't
clean up in one. So a folder is made under another name, given away, looked at, and then put in its place.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from ollama_guard.errors import StoreFailed
from ollama_guard.hands.adapters.manifests.tree import opened, spelled

# What a folder is called until it is whole. One that a death left behind is taken away by the next look.
UNFINISHED = ".ollama-guard-unfinished"
# Of a folder's rights for one of owner, group, others: all, and those without which nothing in it is seen.
_ALL, _READ = 0o7, 0o5
# Steps below the folder of manifests at which files lie, and nothing is made any more.
_DEEPEST = 3


@dataclass(frozen=True, slots=True)
class Rights:
    """Whose a folder is, and its mode."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, folder: int) -> Self:
        """Those of an open folder."""
        status = os.fstat(folder)
        return cls(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid} with mode {self.mode:o}"


def _make(above: int, part: str) -> None:
    """Make a folder with the rights of the one above, or leave nothing; raises `StoreFailed`."""
    wanted = Rights.of(above)
    _forget_unfinished(above)
    os.mkdir(UNFINISHED, wanted.mode & 0o777, dir_fd=above)
    try:
        with opened(above, UNFINISHED) as new:
            _share(new, wanted, part)
            os.fsync(new)
        # One that Ollama made meanwhile is replaced while it is empty, else left alone.
        os.rename(UNFINISHED, part, src_dir_fd=above, dst_dir_fd=above)
    except BaseException:
        _forget_unfinished(above)
        raise
    os.fsync(above)


@contextlib.contextmanager
def made(above: int, part: str, *, ours: bool) -> Iterator[int]:
    """A folder below another, made if need be. ``ours``: nobody but the guard had a reason to make it."""
    step = spelled(above, part)
    if step is None:
        _make(above, part)
    with opened(above, step or part) as folder:
        if ours:
            _check(folder, step or part, above)
        yield folder


def _forget_unfinished(above: int) -> None:
    """Take away what a death left half made."""
    with contextlib.suppress(OSError):
        os.rmdir(UNFINISHED, dir_fd=above)


def _check(folder: int, part: str, above: int) -> None:
    """Refuse a folder of this process's own that is shut to who uses the one above; raises `StoreFailed`."""
    rights, wanted = Rights.of(folder), Rights.of(above)
    if rights.uid == wanted.uid != os.geteuid():
        return  # Ollama's user has made it
    if _is_narrower(rights, wanted, _READ):
        raise StoreFailed(f"{part} belongs to {_beside(rights, wanted)}; remove it if it is empty")


def _why_not_made(above: int, path: str) -> str:
    """Why a folder that is made in this one would be shut to Ollama, "" if it would not; makes none."""
    wanted = Rights.of(above)
    if (os.geteuid(), os.getegid()) == (wanted.uid, wanted.gid):
        return ""
    # A file without a name, to see what may be given away: nothing is written anywhere.
    file = os.memfd_create("ollama-guard")
    try:
        _give(file, wanted)
        given = Rights.of(file)
    finally:
        os.close(file)
    gid = wanted.gid if wanted.mode & stat.S_ISGID else given.gid
    if _is_narrower(Rights(given.uid, gid, wanted.mode), wanted, _ALL):
        return f"a folder made in {path} can't be given to user {wanted.uid} and group {wanted.gid}"
    return ""


def unwritable_below(folder: int, path: str, depth: int = 0) -> str:
    """Why something in this folder, three steps deep, can't be renamed by this user; "" if all can.

    What a death left half made on the way is taken away.
    """
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
        return f"{path} is not writable for this user"
    if depth == _DEEPEST:
        return ""
    if why := _why_not_made(folder, path):
        return why
    _forget_unfinished(folder)
    for entry in sorted(os.listdir(folder)):
        with contextlib.suppress(NotADirectoryError, FileNotFoundError):
            try:
                with opened(folder, entry) as below:
                    why = unwritable_below(below, f"{path}/{entry}", depth + 1)
            except PermissionError:
                why = f"{path}/{entry} can't be opened by this user"
            except OSError as problem:
                if problem.errno != errno.ELOOP:
                    raise
                continue  # a link: what lies behind it is refused when it is asked for
            if why:
                return why
    return ""


def _share(new: int, wanted: Rights, part: str) -> None:
    """Have a new folder be as the one above; its mode first, since only who owns it may set that."""
    for bits in (wanted.mode, wanted.mode & 0o777):  # RestrictSUIDSGID= refuses the setgid bit
        with contextlib.suppress(OSError):
            os.fchmod(new, bits)
            break
    _give(new, wanted)
    made = Rights.of(new)
    if _is_narrower(made, wanted, _ALL):
        raise StoreFailed(f"{part} would belong to {_beside(made, wanted)}")


def _give(new: int, wanted: Rights) -> None:
    """To the same user; where that may not be done, to the same group."""
    for uid in (wanted.uid, -1):
        with contextlib.suppress(OSError):
            os.fchown(new, uid, wanted.gid)
            return


def _is_narrower(folder: Rights, above: Rights, bits: int) -> bool:
    """Whether somebody who has one of these rights on ``above`` has it not on ``folder``."""
    owner, group, others = (folder.mode >> shift & bits for shift in (6, 3, 0))
    for_group = group if folder.gid == above.gid else others
    if folder.uid != above.uid:  # then it is not its owner's right that who owns the one above has
        owner = group if _is_member(above.uid, folder.gid) else others
    needs = (above.mode >> shift & bits for shift in (6, 3, 0))
    return any(need & ~has for need, has in zip(needs, (owner, for_group, others), strict=True))


def _is_member(uid: int, gid: int) -> bool:
    """Whether a user is in a group, as the system's files tell."""
    try:
        user = pwd.getpwuid(uid)
        return user.pw_gid == gid or user.pw_name in grp.getgrgid(gid).gr_mem
    except KeyError:
        return False


def _beside(folder: Rights, above: Rights) -> str:
    return f"{folder}, the folder above it to {above}: Ollama could not use it"
