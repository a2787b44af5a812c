"""Log events without ever waiting: journald's own datagrams, or a printer child that may block.

The form: native fields where stderr is the journal's, a readable line on a terminal, JSON lines
elsewhere; ``OLLAMA_GUARD_LOG=journal|line|json`` overrides. What can't be taken now is counted.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from ollama_guard.core.events import Event, as_journal, as_json, as_line
from ollama_guard.sentinel import children, kernel
from ollama_guard.sentinel.children import Child
from ollama_guard.sentinel.thinning import Thinning

JOURNAL_SOCKET = "/run/systemd/journal/socket"
_STDERR = 2
_FORMS = ("journal", "line", "json")
# How long the printer may go on with what waits after the sentinel has closed its end.
_LAST_WORDS_SECONDS = 0.2
# One event is one packet; journald and a socketpair both take this much by default.
_PACKET_BYTES = 60_000


class Writer(Protocol):
    """Takes one event and returns at once: False if it had to be dropped."""

    def write(self, event: Event, wall: float) -> bool:
        """Write one event that happened at ``wall`` (epoch seconds)."""

    def close(self) -> None:
        """Let go of descriptors and children, within a fraction of a second."""


class JournaldWriter:
    """Native journal datagrams with MSG_DONTWAIT; addressed each time, so journald may restart."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def write(self, event: Event, wall: float) -> bool:
        """Send one event; every value is one line, so the plain ``KEY=value`` form is enough."""
        del wall  # journald stamps it
        packet = "".join(f"{key}={value}\n" for key, value in as_journal(event).items()).encode(
            "utf-8", "replace"
        )
        try:
            self._socket.sendto(packet, socket.MSG_DONTWAIT, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class PrinterWriter:
    """A pre-forked child that writes lines to stderr and may block there; the socketpair never does."""

    def __init__(self, render: Callable[[Event, float], str], fd: int = _STDERR) -> None:
        self._render = render
        self._fd = fd
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        with suppress(OSError):
            self._start()

    def write(self, event: Event, wall: float) -> bool:
        """Queue one line; starts another printer when the last one is gone."""
        line = self._render(event, wall).encode("utf-8", "replace")[:_PACKET_BYTES]
        if self._send(line):
            return True
        if self._child is not None and not self._child.exited():
            return False
        try:
            self._forget()
            self._start()
        except OSError:
            return False
        return self._send(line)

    def close(self) -> None:
        """Let the printer finish what waits, but not for long."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            if not self._child.exited(_LAST_WORDS_SECONDS):
                self._child.signal(signal.SIGKILL)
                self._child.exited(_LAST_WORDS_SECONDS)
            self._forget()

    def _send(self, line: bytes) -> bool:
        try:
            return self._socket is not None and self._socket.send(line) > 0
        except OSError:
            return False

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - its only signature
        fd = self._fd
        self._socket = ours
        try:
            self._child = children.fork(
                lambda: _print_for_ever(theirs, fd),
                (theirs.fileno(), fd),
                parent_death_signal=signal.SIGUSR2,
            )
        finally:
            theirs.close()

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.reap()
            self._child = None


def _print_for_ever(sock: socket.socket, fd: int) -> None:
    """The printer's whole life; it ends at end-of-file, or a second after the sentinel was killed."""
    kernel.name_process("guard-printer")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # The sentinel's death is told as SIGUSR2; a write that blocks for ever then ends with SIGALRM.
    signal.signal(signal.SIGUSR2, lambda *_: signal.alarm(1))
    while line := sock.recv(_PACKET_BYTES):
        rest = line + b"\n"
        with suppress(OSError):
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:  # somebody set our stderr to non-blocking
                    select.select((), (fd,), ())


class Journal:
    """Where every event of the sentinel goes; repeats are thinned, drops are counted."""

    def __init__(self, writer: Writer, form: str) -> None:
        self.form = form
        self.dropped = 0
        self._writer = writer
        self._thinning = Thinning()

    def say(self, event: Event, now: float, wall: float) -> None:
        """Write one event, unless it repeats too fast; ``now`` in boottime seconds."""
        shown = self._thinning.pass_on(event, now)
        if shown is not None:
            self._write(shown, wall)

    def flush(self, now: float, wall: float) -> None:
        """Write the repeats whose turn has come."""
        for event in self._thinning.due(now):
            self._write(event, wall)

    def close(self, now: float, wall: float) -> None:
        """Write what is held back, then close."""
        for event in self._thinning.rest(now):
            self._write(event, wall)
        self._writer.close()

    def _write(self, event: Event, wall: float) -> None:
        if not self._writer.write(event, wall):
            self.dropped += 1


def choose_form(environ: Mapping[str, str], fd: int = _STDERR) -> str:
    """Which form this process logs in: ``journal``, ``line`` or ``json``."""
    wanted = environ.get("OLLAMA_GUARD_LOG", "")
    if wanted in _FORMS:
        return wanted
    try:
        found = os.fstat(fd)
    except OSError:
        return "json"
    if environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}":
        return "journal"
    return "line" if os.isatty(fd) else "json"


def open_journal(environ: Mapping[str, str], fd: int = _STDERR, path: str = JOURNAL_SOCKET) -> Journal:
    """The journal in the form that this process should log in."""
    form = choose_form(environ, fd)
    if form == "journal":
        return Journal(JournaldWriter(path), form)
    return Journal(PrinterWriter(as_line if form == "line" else as_json, fd), form)
