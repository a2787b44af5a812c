"""Where a tick broke is told without a look at any disk."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from typing import Any

from ollama_guard.sentinel.whence import whence

SOURCE = """\
def inner():
    raise ValueError("no")


def outer():
    inner()
"""


class Opened:
    """The files that this process opens while it listens; an audit hook can't be taken off again."""

    def __init__(self) -> None:
        self.paths: list[str] | None = None
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """The interpreter's word of what is done."""
        if event == "open" and self.paths is not None:
            self.paths.append(str(args[0]))


OPENED = Opened()


def broken(path: Path) -> Exception:
    """What a function of this file raised."""
    path.write_text(SOURCE)
    linecache.clearcache()
    names: dict[str, Any] = {}
    exec(compile(SOURCE, str(path), "exec"), names)  # noqa: S102
    try:
        names["outer"]()
    except ValueError as error:
        return error
    raise AssertionError


def test_it_names_function_file_and_line_the_innermost_first_and_opens_nothing(tmp_path: Path) -> None:
    error = broken(tmp_path / "source.py")
    OPENED.paths = []
    try:
        told = whence(error)
    finally:
        opened, OPENED.paths = OPENED.paths, None
    assert told.startswith("inner (source.py:2) <- outer (source.py:6) <- broken (test_whence.py:")
    assert opened == []


def test_nothing_raised_is_nowhere() -> None:
    assert whence(None) == ""
