"""Which line of a TOML text a key stands on; tomllib does not say.

The text is known to be valid TOML, so this reads only what it needs: headers, keys, and where a
value ends. A key inside an inline table has the line of the key that the inline table belongs to.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"[ \t]*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)[ \t]*"
_HEADER = re.compile(rf"[ \t]*\[(\[?){_DOTTED}\]")
_KEY = re.compile(rf"{_DOTTED}=")
_VALUE_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*\''''
    r"""|\#[^\n]*|[\[{\]}]|\n|[^"'\#\[\]{}\n]+""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Each key and table of a valid TOML text with the line (from 1) that first names it.

    Below a ``[[table]]`` stands its number, from 0: ``("tiers", "1", "memory")``.
    """
    lines: dict[KeyPath, int] = {}
    newlines_before, counted_to = 0, 0
    for position, path in _keys(text):
        newlines_before += text.count("\n", counted_to, position)
        counted_to = position
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], newlines_before + 1)
    return lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """The line of a key, or of the nearest table or value around it; None where nothing was written."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def _keys(text: str) -> Iterator[tuple[int, KeyPath]]:
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    position = 0
    while position < len(text):
        header = _HEADER.match(text, position)
        key = None if header else _KEY.match(text, position)
        if header:
            table = _within(_decoded(header[2]), counts)
            if header[1]:
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            yield position, table
        elif key:
            yield position, (*table, *_decoded(key[1]))
        position = _end_of_line(text, key.end()) if key else _next_line(text, position)


def _within(header: KeyPath, counts: Mapping[KeyPath, int]) -> KeyPath:
    """The path of a header; below a ``[[table]]`` that of its last one."""
    path: KeyPath = ()
    for part in header[:-1]:
        path = (*path, part)
        if path in counts:
            path = (*path, str(counts[path]))
    return (*path, header[-1])


def _decoded(dotted: str) -> KeyPath:
    """A dotted key without its quotes and escapes."""
    path: list[str] = []
    value: Any = tomllib.loads(f"{dotted} = 0")
    while isinstance(value, dict):
        key, value = next(iter(value.items()))
        path.append(key)
    return tuple(path)


def _next_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _end_of_line(text: str, position: int) -> int:
    """Behind the line on which the value that begins here ends, however many lines it spans."""
    depth = 0
    for token in _VALUE_TOKEN.finditer(text, position):
        if token[0] in ("[", "{"):
            depth += 1
        elif token[0] in ("]", "}"):
            depth -= 1
        elif token[0] == "\n" and depth <= 0:
            return token.end()
    return len(text)
