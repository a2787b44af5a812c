"""Files of others, read within a deadline: on a disk that hangs a plain read holds a command up for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ollama_guard.settings.deadline import within

# Seconds for one file: it takes a millisecond, and on a disk that spins up a second.
READ_SECONDS = 2.0
# Bytes of one file: what people write by hand is a hundredth of this.
MOST_BYTES = 1 << 20


def read_within(path: Path, seconds: float = READ_SECONDS) -> str:
    """The file's text; what is no UTF-8 in it is replaced.

    Raises:
        OSError: it can't be read, is larger than `MOST_BYTES`, or did not come in time (TimeoutError).
    """

    def read() -> str:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1).decode("utf-8", "replace")

    text = _in_time(read, seconds)
    if len(text) > MOST_BYTES:
        raise OSError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return text


def is_there_within(path: Path, seconds: float = READ_SECONDS) -> bool:
    """Whether there is such a file.

    Raises:
        OSError: that can't be told, or not in time.
    """
    return _in_time(lambda: "yes" if path.exists() else "", seconds) == "yes"


def _in_time(function: Callable[[], str], seconds: float) -> str:
    try:
        return within(seconds, function)
    except TimeoutError:
        raise TimeoutError(f"it could not be read within {seconds:.0f} s") from None


def why(error: OSError) -> str:
    """The reason as a sentence says it."""
    return error.strerror or str(error)
