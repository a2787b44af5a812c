"""Where something broke, told from memory alone: the source's file may lie on a disk that hangs."""

from __future__ import annotations

import traceback


def whence(error: BaseException | None) -> str:
    """``inner (file.py:7) <- outer (file.py:3)``; unlike `traceback.extract_tb` it opens no file."""
    frames = list(traceback.walk_tb(error.__traceback__ if error else None))
    return " <- ".join(
        f"{frame.f_code.co_name} ({frame.f_code.co_filename.rsplit('/', 1)[-1]}:{line})"
        for frame, line in reversed(frames)
    )
