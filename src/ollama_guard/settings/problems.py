"""pydantic's findings as sentences: file, line, key, value, what is wrong, what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ollama_guard.core.events import one_line
from ollama_guard.core.units import count_text
from ollama_guard.settings.ladder import TierTable
from ollama_guard.settings.lines import KeyPath, key_lines, line_of
from ollama_guard.settings.schema import File

MOST_PROBLEMS = 30  # sentences: as many as fit on a screen; the rest is counted
LONGEST_VALUE = 60  # characters of the owner's value that a sentence repeats

SECRET = ((), ("webhook",))  # what of [notify] no sentence repeats, since sentences end up in logs

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ANY = "*"


def sentences(error: ValidationError, data: Mapping[str, Any], text: str, origin: str) -> list[str]:
    """One sentence per problem, in the order of the file."""
    lines = key_lines(text)
    found = error.errors(include_url=False, include_input=False)
    placed = sorted(((line_of(lines, _path(e)) or 0, e) for e in found), key=lambda pair: pair[0])
    told = [_sentence(detail, data, line, origin) for line, detail in placed[:MOST_PROBLEMS]]
    if len(placed) > MOST_PROBLEMS:
        told.append(f"{origin}: and {count_text(len(placed) - MOST_PROBLEMS, 'more problem')}")
    return told


def _sentence(detail: ErrorDetails, data: Mapping[str, Any], line: int, origin: str) -> str:
    path = _path(detail)
    written = _shortened(path, data)
    where = f"{origin}, line {line}" if line else origin
    value = _value(data, written)
    if written[:1] == ("notify",) and written[1:] in SECRET and detail["type"] != "extra_forbidden":
        return f"{where}: {_dotted(written)} {_problem(detail)}"
    shown = _titled(path, data)
    if detail["type"] == "extra_forbidden":
        is_table = all(isinstance(one, dict) for one in (value if isinstance(value, list) else [value]))
        kind = "table" if is_table else "key"
        hint = _suggestion(path, shown, is_table=is_table)
        return f"{where}: unknown {kind} {_dotted(shown)}; {hint}"
    if detail["type"] == "missing":
        example = f'{path[-1]} = "{_example(path)}"'
        return f"{where}: {_dotted(shown[:-1])} has no {path[-1]}; allowed: {example}, for example"
    return f"{where}: {_dotted(shown[: len(written)])} = {_shown(value)} {_problem(detail)}"


def _path(detail: ErrorDetails) -> KeyPath:
    """Where the problem is, as keys; a problem of several keys together names the one to mend."""
    path = tuple(str(part) for part in detail["loc"] if part != "[key]")
    if detail["type"] == "together":
        path = (*path, *detail["ctx"]["path"])
    return path


def _problem(detail: ErrorDetails) -> str:
    if detail["type"] == "together":
        return str(detail["ctx"]["sentence"])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "list_type":
        return f"is no list of tables; allowed: [[{detail['loc'][-1]}]], once for each"
    return "is not a table; allowed: a table with its keys below its [name]"


def _shortened(path: KeyPath, data: Mapping[str, Any]) -> KeyPath:
    """The path as the owner wrote it: without the key that a short form (``soft = "20%"``) stands for."""
    value: Any = data
    for depth, key in enumerate(path):
        if not isinstance(value, (dict, list)):
            return path[:depth]
        value = _below(value, key, {})
    return path


def _titled(path: KeyPath, data: Mapping[str, Any]) -> KeyPath:
    """The path for people: one of a list goes by the name that it was given, else by its number from 1."""
    value: Any = data
    shown = []
    for key in path:
        inner = _below(value, key, None)
        if isinstance(value, list):
            name = inner.get("name") if isinstance(inner, dict) else None
            shown.append(name if isinstance(name, str) and name else str(int(key) + 1))
        else:
            shown.append(key)
        value = inner
    return tuple(shown)


def _below(value: Any, key: str, default: Any) -> Any:
    if isinstance(value, list):
        return value[int(key)] if key.isdecimal() and int(key) < len(value) else default
    return value.get(key, default) if isinstance(value, dict) else default


def _value(data: Mapping[str, Any], path: KeyPath) -> Any:
    value: Any = data
    for key in path:
        value = _below(value, key, None)
    return value


def _shown(value: Any) -> str:
    match value:
        case None:
            return "(its default)"
        case bool():
            return "true" if value else "false"
        case str():
            return one_line(json.dumps(value, ensure_ascii=False), LONGEST_VALUE)
        case dict():
            return _inline(value)
        case list():
            return "[…]" if value else "[]"
        case int() if value.bit_length() > 128:
            return "(a very large number)"
        case _:
            return str(value)


def _inline(table: dict[str, Any]) -> str:
    pairs = (
        f"{_dotted((key,))} = {_shown(value) if not isinstance(value, dict) else '{…}'}"
        for key, value in list(table.items())[:4]
    )
    return one_line(f"{{ {', '.join(pairs)} }}" if table else "{}", 2 * LONGEST_VALUE)


def _dotted(path: KeyPath) -> str:
    parts = (key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False) for key in path)
    return one_line(".".join(parts), 4 * LONGEST_VALUE)


def _example(path: KeyPath) -> str:
    """What a key that must be there could be: a threshold's share, a tier's name."""
    for name, field in TierTable.model_fields.items():
        if path[0] == "tiers" and name == path[-1]:
            return str((field.examples or [""])[0])
    return "20%"


def _suggestion(path: KeyPath, shown: KeyPath, *, is_table: bool) -> str:
    """The nearest right name: among its siblings, else anywhere in the file, else all siblings."""
    known = {name: kind for name, kind in _names(File, ()) if (kind is not None) == is_table}
    parent, name = path[:-1], path[-1]
    siblings = [entry for entry in known if len(entry) == len(path) and _fits(entry[:-1], parent)]
    near = difflib.get_close_matches(name.lower(), [entry[-1] for entry in siblings], n=1)
    if near:
        return f"did you mean {_dotted((*shown[:-1], near[0]))}?"
    anywhere = difflib.get_close_matches(
        name.lower(), [e[-1] for e in known if e[-1] != _ANY], n=1, cutoff=0.75
    )
    if anywhere:
        return "did you mean " + " or ".join(_shape(e) for e in known if e[-1] == anywhere[0]) + "?"
    names = sorted(e[-1] for e, _ in _names(File, ()) if len(e) == len(path) and _fits(e[:-1], parent))
    return f"allowed here: {', '.join(names)}"


def _fits(entry: KeyPath, path: KeyPath) -> bool:
    return len(entry) == len(path) and all(e in (_ANY, p) for e, p in zip(entry, path, strict=True))


def _shape(entry: KeyPath) -> str:
    return ".".join('"NAME"' if part == _ANY else part for part in entry)


def _names(table: type[BaseModel], parent: KeyPath) -> Iterator[tuple[KeyPath, type[BaseModel] | None]]:
    """Every key of the schema with the table that it is, if it is one."""
    for name, field in table.model_fields.items():
        path, kind = (*parent, field.alias or name), field.annotation
        if get_origin(kind) in (dict, list):
            path, kind = (*path, _ANY), get_args(kind)[-1]
            yield path[:-1], table
        inner = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        yield path, inner
        if inner is not None:
            yield from _names(inner, path)
