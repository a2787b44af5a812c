"""A main loop for tests: the mailbox, what was sent, and a clock that is moved by hand."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator

import pytest

from ollama_guard.hands import journal
from ollama_guard.hands.lanes import Mailbox
from ollama_guard.wire import Message


class Loop:
    """What the dispatcher is to its parts, without a channel."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.mailbox = Mailbox()
        self.sent: list[Message] = []

    def clock(self) -> float:
        """The time as it was set."""
        return self.now

    def send(self, message: Message) -> bool:
        """Keep a message that would go to the sentinel."""
        self.sent.append(message)
        return True

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Run what the lanes deliver until something is true."""
        while not reached():
            assert select.select([self.mailbox], [], [], 10)[0], "nothing more came from the lanes"
            self.mailbox.run()


@pytest.fixture
def loop() -> Loop:
    """A fresh loop at 1000 s."""
    return Loop()


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Events go nowhere, save where a test sets the log up for itself."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    journal.configure({"OLLAMA_GUARD_LOG": "json"}, nowhere)
    yield
    os.close(nowhere)
