"""Frozen dataclasses to plain JSON values and back, strictly.

One codec for the policy file, the wire between the processes, the state map and recorded
traces. Foreign or broken input gives a `CodecError` that names the place; never anything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from enum import Enum, IntEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

# Bits of a whole number that an error still shows; Python refuses to print very long ones.
LONGEST_SHOWN_BITS = 128


class CodecError(ValueError):
    """Plain data that is not of the shape asked for; ``path`` says where."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'value'}: {problem}")
        self.path = path


def to_plain(value: object) -> Any:
    """Turn a (nested) dataclass, tuple, mapping or enum into what `json.dumps` takes.

    Non-finite floats become None, since strict JSON has none.
    """
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name, _, _ in _shape(type(value))}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list, frozenset)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: type[T], data: object, path: str = "") -> T:
    """Build ``kind`` from plain JSON values.

    Raises:
        CodecError: when a field is missing, unknown, or of another type.
    """
    built: T = _build(kind, data, path)
    return built


def with_plain(value: T, changes: object, path: str = "") -> T:
    """A dataclass value with some of its fields built anew from plain JSON values.

    Raises:
        CodecError: when the changes are no object, or one is unknown or of another type.
    """
    if not isinstance(changes, dict):
        raise CodecError(path, f"expected an object, got {_name(changes)}")
    kind: Any = type(value)
    hints = {name: hint for name, hint, _ in _shape(kind)}
    unknown = changes.keys() - hints.keys()
    if unknown:
        raise CodecError(f"{path}.{min(unknown)}".lstrip("."), "unknown key")
    built = {name: _build(hints[name], item, f"{path}.{name}".lstrip(".")) for name, item in changes.items()}
    return replace(value, **built)  # type: ignore[type-var]  # it is a dataclass: it has a shape


@cache
def _shape(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Each field of a dataclass: (name, type, required)."""
    hints = get_type_hints(kind)
    return tuple(
        (f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind)
    )


def _build(kind: Any, data: object, path: str) -> Any:
    if kind is Any:
        return data
    if is_dataclass(kind):
        return _build_dataclass(kind, data, path)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _build_optional(kind, data, path)
    if origin is tuple:
        return _build_tuple(get_args(kind), data, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise CodecError(path, f"expected a table, got {_name(data)}")
        _, item = get_args(kind)
        return {str(k): _build(item, v, f"{path}.{k}") for k, v in data.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _build_enum(kind, data, path)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return _finite(data, path)
    if kind is float and isinstance(data, float):
        return _finite(data, path)
    if kind in (int, str, bool) and type(data) is kind:
        return data
    raise CodecError(path, f"expected {getattr(kind, '__name__', kind)}, got {_name(data)}")


def _finite(data: float, path: str) -> float:
    try:
        number = float(data)
    except OverflowError:
        raise CodecError(path, "number out of range") from None
    if not math.isfinite(number):
        raise CodecError(path, "expected a finite number")
    return number


def _build_dataclass(kind: Any, data: object, path: str) -> Any:
    if not isinstance(data, dict):
        raise CodecError(path, f"expected an object for {kind.__name__}, got {_name(data)}")
    shape = _shape(kind)
    unknown = data.keys() - {name for name, _, _ in shape}
    if unknown:
        raise CodecError(f"{path}.{min(map(str, unknown))}".lstrip("."), "unknown key")
    values = {}
    for name, hint, required in shape:
        if name in data:
            values[name] = _build(hint, data[name], f"{path}.{name}".lstrip("."))
        elif required:
            raise CodecError(f"{path}.{name}".lstrip("."), "missing")
    return kind(**values)


def _build_optional(kind: Any, data: object, path: str) -> Any:
    options = get_args(kind)
    if data is None and NoneType in options:
        return None
    (inner,) = (option for option in options if option is not NoneType)
    return _build(inner, data, path)


def _build_tuple(args: tuple[Any, ...], data: object, path: str) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise CodecError(path, f"expected a list, got {_name(data)}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_build(args[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if len(args) != len(data):
        raise CodecError(path, f"expected {len(args)} items, got {len(data)}")
    return tuple(
        _build(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, data, strict=True))
    )


def _build_enum(kind: type[Enum], data: object, path: str) -> Enum:
    for member in kind:
        word = member.name.lower() if isinstance(member, IntEnum) else member.value
        if data == word and isinstance(data, str):
            return member
    raise CodecError(path, f"expected one of {', '.join(str(to_plain(m)) for m in kind)}, got {_name(data)}")


def _name(data: object) -> str:
    kind = type(data).__name__
    if data is None:
        return "null"
    if isinstance(data, (list, tuple, dict)):  # not its content: that may be nested without end
        return f"{kind} of {len(data)}"
    if isinstance(data, int) and data.bit_length() > LONGEST_SHOWN_BITS:
        return f"{kind} of {data.bit_length()} bits"
    return f"{kind} {str(data)[:40]!r}"
