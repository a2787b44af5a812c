"""The tables and keys of the configuration file with everything that the owner is told about them."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeGuard, get_args, get_origin

from pydantic.fields import FieldInfo

from ollama_guard.core.policy import Policy
from ollama_guard.core.tiers import EXAMPLE
from ollama_guard.settings.effective import effective_toml
from ollama_guard.settings.schema import File
from ollama_guard.settings.tables import Table
from ollama_guard.settings.values import Check


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``default`` and ``example`` are TOML values, "" where there is none.

    ``needed``: it is never left out.
    """

    name: str
    text: str
    allowed: str
    default: str
    example: str
    needed: bool = False


@dataclass(frozen=True, slots=True)
class TableOfKeys:
    """One ``[name]``; ``example`` is the name to show instead, where the owner chooses it.

    ``more`` are further lines of an example that one table alone doesn't make.
    """

    name: str
    text: str
    keys: tuple[Key, ...]
    example: str = ""
    more: tuple[str, ...] = ()


def intro() -> str:
    """What is to say about the file as a whole."""
    return inspect.getdoc(File) or ""


def tables() -> list[TableOfKeys]:
    """Every table in the order of the schema; one that only holds other tables has no keys."""
    return list(_tables(File, ()))


def _tables(owner: type[Table], path: tuple[str, ...]) -> Iterator[TableOfKeys]:
    for name, field in owner.model_fields.items():
        inner, at = field.annotation, (*path, name)
        if get_origin(inner) is dict:
            rule = get_args(inner)[1]
            yield _table(rule, (*at, '"NAME"'), f'{name}."{_example(field)}"')
        elif get_origin(inner) is list:
            listed = f"[{name}]"
            yield replace(_table(get_args(inner)[0], (listed,), listed), more=_ladder())
        elif _is_table(inner):
            yield _table(inner, at)
            yield from _tables(inner, at)


def _ladder() -> tuple[str, ...]:
    """The rest of the ladder whose first rung the keys show."""
    whole = effective_toml(Policy(tiers=EXAMPLE[1:]))
    return tuple(line for line in whole[whole.index("[[tiers]]") :].splitlines() if line)


def _is_table(kind: object) -> TypeGuard[type[Table]]:
    """Whether it has a ``[name]`` of its own: then each of its keys has a default; inline ones lack some."""
    if not (isinstance(kind, type) and issubclass(kind, Table)):
        return False
    return not any(field.is_required() for field in kind.model_fields.values())


def _table(table: type[Table], path: tuple[str, ...], example: str = "") -> TableOfKeys:
    keys = (
        _key(table, path, name, field)
        for name, field in table.model_fields.items()
        if not _is_table(field.annotation)
    )
    return TableOfKeys(".".join(path), inspect.getdoc(table) or "", tuple(keys), example)


def _key(table: type[Table], path: tuple[str, ...], name: str, field: FieldInfo) -> Key:
    texts = [text for text in (_texts(kind).get(name) for kind in table.__mro__) if text]
    allowed = [check.allowed for check in field.metadata if isinstance(check, Check) and check.allowed]
    if not texts or not allowed:
        raise LookupError(
            f"{table.__name__}.{name} has no text below it, or its check doesn't say what it allows"
        )
    default = _default(path, name, field)
    example = _example(field)
    shown = example if example.isdigit() or not example else f'"{example}"'
    return Key(field.alias or name, texts[0], allowed[0], default, shown, field.is_required())


def _example(field: FieldInfo) -> str:
    return str(field.examples[0]) if field.examples else ""


def _default(path: tuple[str, ...], name: str, field: FieldInfo) -> str:
    """As `check-config --show` prints it for an empty file; what is left out is not set, or a rule's."""
    header = ""
    for line in effective_toml(Policy()).splitlines():
        if line.startswith("["):
            header = line.strip("[]")
        key, _, value = line.partition(" = ")
        if (header, key) == (".".join(path), name):
            return value
    return f'"{field.default}"' if field.default and not field.is_required() else ""


def _texts(kind: type) -> dict[str, str]:
    """The strings below the keys of a class."""
    if not issubclass(kind, Table):
        return {}
    found = {}
    for node in ast.parse(inspect.getsource(sys.modules[kind.__module__])).body:
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            for above, below in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(above, ast.AnnAssign)
                    and isinstance(above.target, ast.Name)
                    and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant)
                ):
                    found[above.target.id] = inspect.cleandoc(str(below.value.value))
    return found
