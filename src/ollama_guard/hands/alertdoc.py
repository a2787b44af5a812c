"""What an alert says: the JSON document that is posted to the owner's webhook."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ollama_guard import __version__
from ollama_guard.core.events import Event
from ollama_guard.core.units import bytes_text
from ollama_guard.wire import Noticed

# Consumers that the sentence names; the document has all that are known.
NAMED = 3
NO_WEBHOOK = "no webhook is set: give [notify] webhook a URL in the configuration"


def document(notice: Noticed, name: str, consumers: Sequence[Mapping[str, Any]] | None) -> bytes:
    """The document; its ``text`` says it all, for chats that show that and nothing else.

    ``id`` is the same whenever the same alert comes again. ``consumers`` is null where they are not known.
    """
    host = socket.gethostname()
    held = [f"{one['name']} {bytes_text(int(one['bytes']))}" for one in (consumers or ())[:NAMED]]
    most = f" (most memory is held by {', '.join(held)})" if held else ""
    body = {
        "id": name.removesuffix(".json"),
        "event": notice.name,
        "time": datetime.fromtimestamp(max(notice.wall, 0.0), UTC).isoformat(timespec="seconds"),
        "host": host,
        "text": f"ollama-guard on {host}: {notice.message}{most}",
        "message": notice.message,
        "fields": {key: value for key, value in notice.fields.items() if value is not None},
        "consumers": consumers,
        "version": __version__,
    }
    return json.dumps(body, default=str).encode("ascii")


def noticed(event: Event) -> Noticed:
    """An event that this process has just logged itself."""
    return Noticed(event.name, event.message, time.time(), dict(event.fields))


def trial_document(consumers: Sequence[Mapping[str, Any]] | None) -> bytes:
    """What `ollama-guard notify test` has delivered."""
    wall = time.time()
    notice = Noticed("notify.test", "this is a test: alerts reach you here", wall)
    return document(notice, f"test-{int(wall * 1000)}", consumers)


def event_of(body: bytes) -> str:
    """What a kept document tells of; only a word for the log."""
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return "unknown"
    return str(read.get("event", "unknown"))[:60] if isinstance(read, dict) else "unknown"
