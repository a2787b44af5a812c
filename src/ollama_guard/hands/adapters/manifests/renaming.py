"""rename(2) that never replaces anything, which the standard library lacks."""

from __future__ import annotations

import ctypes
import errno
import os

# linux/fs.h
_RENAME_NOREPLACE = 1
# What a kernel or a file system says that knows no such flag (NFS and FUSE: EINVAL).
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_LIBC = ctypes.CDLL(None, use_errno=True)


def rename_new(from_folder: int, from_name: str, to_folder: int, to_name: str) -> None:
    """Rename between two open folders; FileExistsError when something is there already.

    Where the file system can't do it in one step: a second link, then the first one goes. Death in between
    leaves both names of one file, which a repeat finds and mends.
    """
    failed = _renameat2(from_folder, from_name, to_folder, to_name)
    if failed in _UNKNOWN:
        os.link(from_name, to_name, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
        os.unlink(from_name, dir_fd=from_folder)
    elif failed:
        raise OSError(failed, os.strerror(failed), to_name)


def _renameat2(from_folder: int, from_name: str, to_folder: int, to_name: str) -> int:
    """The error's number, 0 for success."""
    try:
        call = _LIBC.renameat2
    except AttributeError:  # a C library from before 2018, or musl
        return errno.ENOSYS
    names = (os.fsencode(from_name), os.fsencode(to_name))
    done = call(from_folder, names[0], to_folder, names[1], _RENAME_NOREPLACE)
    return 0 if done == 0 else ctypes.get_errno()
