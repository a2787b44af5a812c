"""Files of others, read within a deadline: on a disk that hangs a plain read holds a command up for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Seconds for one file: it takes a millisecond, and on a disk that spins up a second.
READ_SECONDS = 2.0
# Bytes of one file: what people write by hand is a hundredth of this.
MOST_BYTES = 1 << 20


def read_within(path: Path, seconds: float = READ_SECONDS) -> bytes:
    """The file's content.

    Raises:
        OSError: it can't be read, is larger than `MOST_BYTES`, or did not come in time (TimeoutError).
    """

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)

    content = within(read, seconds)
    if len(content) > MOST_BYTES:
        raise OSError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return content


def within(call: Callable[[], T], seconds: float = READ_SECONDS) -> T:
    """What a call that may wait for a disk comes to.

    Raises:
        OSError: its own, or TimeoutError.
    """
    answers: queue.SimpleQueue[tuple[T] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(),))
        except OSError as error:
            answers.put(error)

    # A daemon, so that a read which never ends does not keep the command from ending.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"it could not be read within {seconds:.0f} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer[0]


def why(error: OSError) -> str:
    """The reason as a sentence says it."""
    return error.strerror or str(error)
