"""Numbers as people write them in the file: ``"15%"``, ``"1.5GiB"``, ``"30s"``.

Each ``format_*`` is the exact inverse of its ``parse_*``: what is printed compiles to the same number.
Parsing is done in decimal, so that ``"20%"`` is the float that ``0.20`` is.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = r"[+-]?\d{1,18}(?:\.\d{1,18})?"
_RATIO = re.compile(rf"({_NUMBER})\s*%", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s*([A-Za-z]+)", re.ASCII)
_DURATION_PART = re.compile(rf"\s*({_NUMBER})\s*([A-Za-z]+)", re.ASCII)

# A bare K, M, G or T is binary, as in systemd's and Docker's files.
_SIZES = {
    "b": 1,
    "k": 1024, "kib": 1024, "kb": 1000,
    "m": 1024**2, "mib": 1024**2, "mb": 1000**2,
    "g": 1024**3, "gib": 1024**3, "gb": 1000**3,
    "t": 1024**4, "tib": 1024**4, "tb": 1000**4,
}  # fmt: skip
_DURATIONS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1), "sec": Decimal(1),
    "m": Decimal(60), "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}  # fmt: skip
_PRINTED_SIZES = (
    ("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("GB", 1000**3), ("MB", 1000**2), ("KiB", 1024),
)  # fmt: skip
# Each from so many of it on: "60s" and "24h" are what people write, and "1h".
_PRINTED_DURATIONS = (("d", 86400, 2), ("h", 3600, 1), ("min", 60, 2))

LARGEST_BYTES = 2**50  # bytes (1 PiB): a thousand times the largest machine that runs Ollama
LONGEST_SECONDS = 366 * 86400  # seconds (a year): nothing here waits longer, and a typo may not


class UnitError(ValueError):
    """A text that is not such a quantity; the message completes ``"…" is``."""


def parse_ratio(text: str) -> float:
    """``"15%"`` to 0.15; 0 % to 100 %.

    Raises:
        UnitError: not a percentage, or an impossible one.
    """
    match = _RATIO.fullmatch(text.strip())
    if match is None:
        raise UnitError('not a percentage (write it like "15%")')
    percent = Decimal(match[1])
    if not 0 <= percent <= 100:
        raise UnitError("an impossible percentage (0% to 100%)")
    return float(percent / 100)


def parse_bytes(text: str) -> int:
    """``"1.5GiB"``, ``"600 MiB"``, ``"512M"`` to bytes, rounded down to a whole byte.

    Raises:
        UnitError: not a size, negative, or more than 1 PiB.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _SIZES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UnitError('not a size (write it like "600MiB" or "1.5GiB")')
    size = Decimal(match[1]) * unit
    if not 0 <= size <= LARGEST_BYTES:
        raise UnitError("an impossible size (0B to 1024TiB)")
    return int(size)


def parse_duration(text: str) -> float:
    """``"30s"``, ``"500ms"``, ``"1h 30min"`` to seconds.

    Raises:
        UnitError: not a duration, negative, or longer than a year.
    """
    rest, total = text.strip(), Decimal(0)
    if not rest:
        raise UnitError(_NO_DURATION)
    while rest:
        match = _DURATION_PART.match(rest)
        factor = _DURATIONS.get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise UnitError(_NO_DURATION)
        number = Decimal(match[1])
        if number < 0:
            raise UnitError("a negative duration")
        total, rest = total + number * factor, rest[match.end() :].strip()
        if total > LONGEST_SECONDS:
            raise UnitError("longer than a year")
    return float(total)


_NO_DURATION = 'not a duration (write it like "30s", "500ms" or "1h 30min")'


def format_ratio(ratio: float) -> str:
    """``0.15`` as ``"15%"``."""
    return f"{_plain(Decimal(repr(ratio)) * 100)}%"


def format_bytes(count: int) -> str:
    """``1610612736`` as ``"1.5GiB"``: the first unit that needs no more than three decimals.

    Decimal units come behind the binary ones that people think in, and before those that they don't.
    """
    for name, unit in _PRINTED_SIZES:
        if count >= unit and count * 1000 % unit == 0:
            return f"{_plain(Decimal(count) / unit)}{name}"
    return f"{count}B"


def format_duration(seconds: float) -> str:
    """``60.0`` as ``"60s"``, ``600.0`` as ``"10min"``, ``3600.0`` as ``"1h"``, ``86400.0`` as ``"24h"``."""
    for name, unit, least in _PRINTED_DURATIONS:
        if seconds >= least * unit and seconds % unit == 0:
            return f"{int(seconds) // unit}{name}"
    if 0 < seconds < 1:
        return f"{_plain(Decimal(repr(seconds)) * 1000)}ms"
    return f"{_plain(Decimal(repr(seconds)))}s"


def _plain(number: Decimal) -> str:
    """Decimal digits without exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
