"""Where people's wishes wait for the sentinel's answer; called from the control socket's threads."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

from ollama_guard.control.apps import Answer
from ollama_guard.core.model import Request
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Mailbox, boottime
from ollama_guard.hands.watch import Send
from ollama_guard.wire import Replied, RequestPosted


@dataclass(slots=True)
class _Wish:
    verb: str
    done: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None


class Desk:
    """Passes wishes on and hands the answers back."""

    def __init__(self, mailbox: Mailbox, send: Send) -> None:
        self._mailbox = mailbox
        self._send = send
        # Milliseconds since boot: ids stay unique over restarts of this process.
        self._ids = itertools.count(int(boottime() * 1000))
        self._wishes: dict[int, _Wish] = {}

    def ask(self, verb: str, model: str, seconds: float | None, deadline_seconds: float) -> Answer | None:
        """Put a wish to the sentinel and wait; None when no answer came within the deadline."""
        wish = _Wish(verb)
        number = next(self._ids)
        self._wishes[number] = wish
        request = Request(number, verb, model, seconds)
        self._mailbox.put(lambda: self._post(request))
        wish.done.wait(deadline_seconds)
        self._wishes.pop(number, None)
        return wish.answer

    def _post(self, request: Request) -> None:
        self._send(RequestPosted(request))

    def replied(self, reply: Replied) -> None:
        """The sentinel's answer has come (main loop)."""
        wish = self._wishes.get(reply.request_id)
        if wish is None:
            return  # who asked has stopped waiting
        wish.answer = Answer(reply.ok, reply.text, reply.detail)
        wish.done.set()
        log().info(
            "request.answered",
            message=f"{wish.verb} by hand: {reply.text}",
            verb=wish.verb,
            ok=reply.ok,
            request_id=reply.request_id,
        )
