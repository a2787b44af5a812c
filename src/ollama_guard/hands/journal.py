"""structlog, ending in the renderings of `core.events`: one schema for both processes.

    log.warning("ollama.lost", message="Ollama does not answer: …", url=url)

The journal's socket and standard error are never waited for: what they don't take now is dropped and
counted, since a full pipe may not stop the main loop.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from ollama_guard.core.events import Event, Priority, Value, as_journal, as_json, as_line

JOURNAL_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {
    "debug": Priority.DEBUG,
    "info": Priority.INFO,
    "notice": Priority.NOTICE,
    "warning": Priority.WARNING,
    "error": Priority.ERROR,
}
Render = Callable[[Event], bytes]


class EventLogger:
    """What structlog calls at the end of its chain; one method per priority, all the same."""

    def __init__(
        self, render: Render, write: Callable[[bytes], None], close: Callable[[], None] = lambda: None
    ) -> None:
        self._render = render
        self._write = write
        self.close = close
        self.dropped = 0
        # Called, in whichever thread, for each event that a person should know of at once.
        self.listener: Callable[[Event], None] = lambda _: None

    def write(self, event: Event) -> None:
        """Render and write one event, or count it as dropped."""
        if event.alerts:
            self.listener(event)
        try:
            self._write(self._render(event))
        except OSError:
            self.dropped += 1

    debug = info = notice = warning = error = write


def configure(
    environ: dict[str, str] | None = None, descriptor: int = 2, journald: str = JOURNAL_SOCKET
) -> EventLogger:
    """Set structlog up for this process; the logger that is returned counts what was dropped.

    ``OLLAMA_GUARD_LOG`` = journal, line or json overrides the choice made from ``descriptor``.
    """
    form = chosen_form(dict(os.environ) if environ is None else environ, descriptor)
    if form == "journal":
        logger = _journal_logger(journald)
    else:
        render = render_line if form == "line" else render_json
        logger = EventLogger(render, lambda line: write_now(descriptor, line))
    structlog.configure(
        processors=[_as_event],
        wrapper_class=_GuardLogger,
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,
    )
    foreign = logging.getLogger()
    foreign.handlers[:] = [_ForeignHandler(logging.WARNING)]
    return logger


def chosen_form(environ: dict[str, str], descriptor: int) -> str:
    """``journal`` under systemd, ``line`` on a terminal, else ``json``."""
    asked = environ.get("OLLAMA_GUARD_LOG", "")
    if asked in ("journal", "line", "json"):
        return asked
    try:
        info = os.fstat(descriptor)
    except OSError:
        return "json"
    is_journal = environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
    if is_journal and os.path.exists(JOURNAL_SOCKET):  # noqa: PTH110  (pathlib costs memory here)
        return "journal"
    return "line" if os.isatty(descriptor) else "json"


def render_journal(event: Event) -> bytes:
    """Journald's native protocol: every value is one line already, so KEY=VALUE does."""
    return "".join(f"{key}={value}\n" for key, value in as_journal(event).items()).encode("utf-8", "replace")


def render_line(event: Event) -> bytes:
    """The readable line."""
    return (as_line(event, time.time()) + "\n").encode("utf-8", "replace")


def render_json(event: Event) -> bytes:
    """The JSON line."""
    return (as_json(event, time.time()) + "\n").encode("utf-8", "replace")


def write_now(descriptor: int, line: bytes) -> None:
    """Write without waiting; raises `BlockingIOError` when there is no room.

    The descriptor is shared with the sentinel, so it can't be made non-blocking for one of the two. A
    pipe that polls as writable takes a page, and a line is nearly always shorter.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not any(mask & select.POLLOUT for _, mask in poll.poll(0)):
        raise BlockingIOError("no room")
    os.write(descriptor, line)


def _journal_logger(path: str) -> EventLogger:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sock.settimeout(0)

    def write(datagram: bytes) -> None:
        sock.sendto(datagram, path)

    return EventLogger(render_journal, write, sock.close)


def _as_event(_: Any, method: str, entry: MutableMapping[str, Any]) -> tuple[tuple[Event], dict[str, Any]]:
    """Structlog's last processor: its dictionary becomes our event."""
    name = str(entry.pop("event"))
    message = str(entry.pop("message", ""))
    fields: dict[str, Value] = dict(entry)
    return (Event(name, message, _PRIORITIES[method], fields),), {}


class _GuardLogger(structlog.BoundLoggerBase):
    """A bound logger with our priorities; ``event`` is a name of `core.events.EVENT_NAMES`."""

    def info(self, event: str, **fields: Value) -> None:
        """As it should be."""
        self._proxy_to_logger("info", event, **fields)

    def notice(self, event: str, **fields: Value) -> None:
        """Worth knowing."""
        self._proxy_to_logger("notice", event, **fields)

    def warning(self, event: str, **fields: Value) -> None:
        """Something does not work as it should."""
        self._proxy_to_logger("warning", event, **fields)

    def error(self, event: str, **fields: Value) -> None:
        """Something failed."""
        self._proxy_to_logger("error", event, **fields)


class _ForeignHandler(logging.Handler):
    """What libraries say through `logging` becomes an event as well."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as ``guard.warned``."""
        log().warning("guard.warned", message=f"{record.name}: {record.getMessage()}", source=record.name)


def log() -> _GuardLogger:
    """The logger of this process."""
    logger: _GuardLogger = structlog.get_logger()
    return logger
