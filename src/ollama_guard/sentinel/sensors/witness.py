"""The disposable process that reads command lines, since that read can hang with its target.

Of a server it also reads in which cgroup it is: before Linux 6.8 that read takes a lock of all cgroups.

/proc/PID/cmdline takes the target's memory lock (108-230 ms while that was held, and without end at
worst). So a child forked in advance reads it; one that doesn't answer in time is killed and replaced, and
the question is asked again later. Nothing here waits.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ollama_guard.sentinel import children, kernel
from ollama_guard.sentinel.sensors.argv import RunnerArgv, ServerArgv, parse_argv, split_cmdline
from ollama_guard.sentinel.sensors.files import slurp
from ollama_guard.sentinel.sensors.processes import read_stat

# Seconds for one answer. A free process is read in 0.1 ms; one whose lock is held took up to 0.23 s.
ANSWER_SECONDS = 0.3
# Seconds until a question that failed is asked again; doubles up to the last.
_FIRST_BACKOFF_SECONDS = 0.5
_LAST_BACKOFF_SECONDS = 30.0
# Bytes of a command line that are read. Ollama's are below 1 KiB; a packet must hold it whole.
_CMDLINE_LIMIT = 16 * 1024
# Bytes of a /proc/PID/cgroup text that are read: a dozen lines on v1, a path of 4 KiB at worst.
_CGROUP_LIMIT = 16 * 1024
# Questions that may wait, and killed children that may still be exiting (stuck in D), before we stop asking.
_QUEUE_LIMIT = 256
_UNREAPED_LIMIT = 4

_QUESTION = struct.Struct("=QQQ")
_ANSWER = struct.Struct("=QQQBQ")
_ARGV, _GONE, _SIZE, _NO_SIZE = range(4)
_LARGEST = _ANSWER.size + _CMDLINE_LIMIT + _CGROUP_LIMIT

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the witness saw of (pid, start_ticks): a command line, or later the size of its blob's file.

    ``argv`` None with ``blob_bytes`` None means that the process was gone or had another start time.
    ``membership`` is a server's /proc/PID/cgroup text, b"" of anybody else.
    """

    key: Key
    argv: tuple[str, ...] | None = None
    blob_bytes: int | None = None
    membership: bytes = b""


@dataclass(slots=True)
class _Failure:
    until_at: float
    backoff_seconds: float


class Witness:
    """Asks one question at a time; ``fileno()`` is readable when an answer (or its death) is there.

    ``on_open`` is called with each new descriptor and ``on_close`` before one is closed, for the epoll set.
    ``stalled`` says in words why nobody answers, "" while all is well.
    """

    def __init__(
        self,
        proc: str,
        on_open: Callable[[int], object] = lambda _: None,
        on_close: Callable[[int], object] = lambda _: None,
        work: Callable[[str, socket.socket], None] | None = None,
    ) -> None:
        self._proc = proc
        self._on_open, self._on_close = on_open, on_close
        self._work = give_evidence if work is None else work
        self._child: children.Child | None = None
        self._socket: socket.socket | None = None
        self._unreaped: list[children.Child] = []
        self._queue: dict[Key, None] = {}
        self._asked: tuple[Key, int, float] | None = None
        self._failures: dict[Key, _Failure] = {}
        self._serial = 0
        self._restart_at = float("-inf")
        self.stalled = ""
        self._start(float("-inf"))

    def fileno(self) -> int:
        """The descriptor of the present child's socket, -1 while there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    def ask(self, key: Key, now: float) -> None:
        """Ask for the command line of (pid, start_ticks); asked twice it counts once."""
        failure = self._failures.get(key)
        waiting = key in self._queue or (self._asked is not None and self._asked[0] == key)
        if waiting or len(self._queue) >= _QUEUE_LIMIT or (failure is not None and now < failure.until_at):
            return
        self._queue[key] = None
        self._send(now)

    def take(self, now: float) -> list[Answer]:
        """What has been answered since; also gives up on answers that are overdue, and asks on."""
        self._reap()
        answers: list[Answer] = []
        while self._socket is not None:
            try:
                packet = self._socket.recv(_LARGEST, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                packet = b""
            if not packet:
                self._abandon(now, "the witness died")
                break
            answer = self._understood(packet)
            if answer is not None:
                answers.append(answer)
        if self._asked is not None and now - self._asked[2] > ANSWER_SECONDS:
            self._abandon(now, f"no answer about process {self._asked[0][0]} in {ANSWER_SECONDS} s")
        if self._socket is None and now >= self._restart_at:
            self._start(now)
        self._send(now)
        return answers

    def failed(self, key: Key) -> bool:
        """Whether the last question about this process was not answered in time."""
        return key in self._failures

    def forget(self, keys: set[Key]) -> None:
        """Drop what is remembered of all processes but these."""
        self._failures = {key: failure for key, failure in self._failures.items() if key in keys}
        self._queue = {key: None for key in self._queue if key in keys}

    def close(self) -> None:
        """Kill the child; its exit is collected if it is there already, else by init."""
        self._drop_child()
        self._reap()

    def _understood(self, packet: bytes) -> Answer | None:
        """An answer to the present question, or to an earlier one of this child (a size)."""
        if len(packet) < _ANSWER.size:
            return None
        serial, pid, start, kind, size = _ANSWER.unpack_from(packet)
        key = (pid, start)
        if kind == _SIZE:
            answer = Answer(key, blob_bytes=size)
        elif kind == _ARGV:
            said, membership = packet[_ANSWER.size :][:size], packet[_ANSWER.size :][size:]
            answer = Answer(key, split_cmdline(said), membership=membership)
        else:
            answer = Answer(key)
        if kind in (_SIZE, _NO_SIZE, _GONE) and self._asked is not None and self._asked[1] == serial:
            self._asked = None
        self._failures.pop(key, None)
        self.stalled = ""
        return None if kind == _NO_SIZE else answer

    def _send(self, now: float) -> None:
        if self._asked is not None or not self._queue or self._socket is None:
            return
        key = next(iter(self._queue))
        self._serial += 1
        try:
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            self._socket.send(_QUESTION.pack(self._serial, *key), flags)
        except OSError:
            return  # a dead child shows as end of file at the next `take`
        del self._queue[key]
        self._asked = (key, self._serial, now)

    def _abandon(self, now: float, reason: str) -> None:
        """Kill a child that hangs or died; what it was asked is asked again later."""
        if self._asked is not None:
            key = self._asked[0]
            past = self._failures.get(key)
            backoff = (
                _FIRST_BACKOFF_SECONDS
                if past is None
                else min(2 * past.backoff_seconds, _LAST_BACKOFF_SECONDS)
            )
            self._failures[key] = _Failure(now + backoff, backoff)
        self.stalled = reason
        self._drop_child()
        self._restart_at = now if self._asked is not None else now + _FIRST_BACKOFF_SECONDS
        self._asked = None

    def _start(self, now: float) -> None:
        if len(self._unreaped) >= _UNREAPED_LIMIT:
            self.stalled = f"{len(self._unreaped)} killed witnesses are still stuck in the kernel"
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        proc, work = self._proc, self._work
        try:
            self._child = children.fork(
                lambda: work(proc, theirs), (theirs.fileno(),), parent_death_signal=signal.SIGKILL
            )
        except OSError as problem:
            ours.close()
            self.stalled = f"no witness: {problem.strerror}"
            self._restart_at = now + _FIRST_BACKOFF_SECONDS
            return
        finally:
            theirs.close()
        ours.settimeout(0)
        self._socket = ours
        self._on_open(ours.fileno())

    def _drop_child(self) -> None:
        if self._socket is not None:
            self._on_close(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
            self._unreaped.append(self._child)
            self._child = None

    def _reap(self) -> None:
        for child in [child for child in self._unreaped if child.exited()]:
            child.reap()
            self._unreaped.remove(child)


def give_evidence(proc: str, theirs: socket.socket) -> None:
    """The child: answer questions until end of file."""
    kernel.name_process("guard-witness")
    kernel.lock_memory()  # as far as allowed: it is asked for when memory is short
    gc.disable()  # a collection would touch, and so copy, every page that is shared with the parent
    while question := theirs.recv(_QUESTION.size):
        serial, pid, start = _QUESTION.unpack(question)
        data = _cmdline(proc, pid, start)
        if data is None:
            theirs.send(_ANSWER.pack(serial, pid, start, _GONE, 0))
            continue
        said = parse_argv(split_cmdline(data))
        is_server = isinstance(said, ServerArgv)
        membership = slurp(f"{proc}/{pid}/cgroup", _CGROUP_LIMIT) if is_server else None
        theirs.send(_ANSWER.pack(serial, pid, start, _ARGV, len(data)) + data + (membership or b""))
        size = _blob_bytes(proc, pid, said)
        theirs.send(_ANSWER.pack(serial, pid, start, _NO_SIZE if size is None else _SIZE, size or 0))


def _cmdline(proc: str, pid: int, start: int) -> bytes | None:
    """The command line, if the process had this start time before and after it was read."""
    before = read_stat(proc, pid)
    data = slurp(f"{proc}/{pid}/cmdline", _CMDLINE_LIMIT)
    after = read_stat(proc, pid)
    if data is None or before is None or after is None:
        return None
    return data if before.start_ticks == after.start_ticks == start else None


def _blob_bytes(proc: str, pid: int, runner: ServerArgv | RunnerArgv | None) -> int | None:
    """The size of the model file, as the runner sees it where we may look there, else as we see it."""
    if not isinstance(runner, RunnerArgv) or not runner.model.startswith("/"):
        return None
    for path in (f"{proc}/{pid}/root{runner.model}", runner.model):
        with suppress(OSError, ValueError):
            return os.stat(path).st_size  # noqa: PTH116  pathlib costs memory in the parent too
    return None
