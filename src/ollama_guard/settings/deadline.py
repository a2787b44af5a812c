"""A function that touches a disk, run in a child process under a deadline.

A disk can hang (NFS, FUSE, a dying card), and a thread that waits for it would hold up an exec and an
exit; a child can be left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable

from ollama_guard.errors import ConfigError

_CHUNK = 65_536


def within(seconds: float, function: Callable[[], str]) -> str:
    """Run ``function`` in a forked child; its text.

    Call it from a process with one thread. The child's stdout and stderr lead nowhere.

    Raises:
        TimeoutError: no answer within ``seconds``; the child is killed, and left behind if it can't die.
        ConfigError: raised by ``function``.
        OSError: raised by ``function``, or the child ended without an answer.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(function, write_end)
    os.close(write_end)
    try:
        raw = _read_until(read_end, time.monotonic() + seconds)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        raise
    finally:
        os.close(read_end)
    os.waitpid(pid, 0)
    try:
        answer = json.loads(raw)
    except ValueError:
        raise OSError("the child process ended without an answer") from None
    if "problems" in answer:
        raise ConfigError(answer["problems"])
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"])
    return str(answer["text"])


def _answer(function: Callable[[], str], write_end: int) -> None:
    """The child's whole life."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            answer: dict[str, object] = {"text": function()}
        except ConfigError as error:
            answer = {"problems": error.problems}
        except OSError as error:
            answer = {"error": error.strerror or str(error), "errno": error.errno or 0}
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _read_until(descriptor: int, deadline: float) -> bytes:
    raw = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError("no answer in time")
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return bytes(raw)
        raw += chunk
