"""What a runtime tells by itself is said in the log and brings a look forward; nobody else's word does."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ollama_guard.core.runtime import Happening, RuntimeKind, Told
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands import journal
from ollama_guard.hands.listening import SELDOM_SECONDS, Listening
from ollama_guard.testing.runtimes import FakeRuntime

OLLAMA = (RuntimeKind.DOCKER, "ollama")
UNIT = (RuntimeKind.SYSTEMD, "ollama.service")


class TellingRuntime(FakeRuntime):
    """Tells what a test puts into ``words``, and ends by what it puts there as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words: queue.Queue[Told | Exception] = queue.Queue()
        self.listeners: list[str] = []
        self.unwanted = threading.Event()

    def listen(self, name: str, tell: Callable[[Told], None], wanted: Callable[[], bool]) -> None:
        """As a stream: until it breaks, or nobody wants it."""
        self.listeners.append(name)
        while wanted():
            try:
                word = self.words.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(word, Exception):
                raise word
            tell(word)
        self.unwanted.set()


class Story:
    """The part under test, whose log is read back."""

    def __init__(self, loop: Any, capfd: pytest.CaptureFixture[str]) -> None:
        journal.configure({"OLLAMA_GUARD_LOG": "json"}, 2)
        self.loop, self._capfd = loop, capfd
        self.heard = 0
        self.port = TellingRuntime()
        self.part = Listening(loop.mailbox, self._hear, loop.clock)
        self._same = self.port_of
        self.follow(OLLAMA)

    def _hear(self) -> None:
        self.heard += 1

    def port_of(self, kind: RuntimeKind) -> FakeRuntime:
        """Docker's alone."""
        assert kind is RuntimeKind.DOCKER, "nobody else tells anything"
        return self.port

    def follow(self, *names: tuple[RuntimeKind, str]) -> None:
        """After a look that knows these."""
        self.part.follow(names, self._same)

    def told(self, *words: Told) -> list[dict[str, Any]]:
        """The log lines after these were told."""
        before = self.heard
        for word in words:
            self.port.words.put(word)
        self.loop.run_until(lambda: self.heard == before + len(words))
        return self.lines()

    def broken(self, why: str | Exception) -> list[dict[str, Any]]:
        """The log lines after the stream broke."""
        done = False

        def settle() -> None:
            nonlocal done
            done = True

        self.port.words.put(RuntimeFailed(why, "no more words") if isinstance(why, str) else why)
        threads = [thread for thread in threading.enumerate() if thread.name == "listening"]
        for thread in threads:
            thread.join(10)
        self.loop.mailbox.put(settle)
        self.loop.run_until(lambda: done)
        return self.lines()

    def lines(self) -> list[dict[str, Any]]:
        """What the log said since the last call."""
        return [json.loads(line) for line in self._capfd.readouterr().err.splitlines()]


@pytest.fixture
def story(loop: Any, capfd: pytest.CaptureFixture[str]) -> Iterator[Story]:
    story = Story(loop, capfd)
    yield story
    story.follow()
    for thread in threading.enumerate():
        if thread.name == "listening":
            thread.join(10)


@pytest.mark.parametrize(
    ("word", "priority", "text"),
    [
        (Told(Happening.OUT_OF_MEMORY), 4, "out of memory in the container ollama"),
        (Told(Happening.ENDED, 137), 5, "ollama has ended, killed"),
        (Told(Happening.ENDED, 143), 5, "ollama has ended by signal 15"),
        (Told(Happening.ENDED, 1), 5, "ollama has ended with exit code 1"),
        (Told(Happening.ENDED), 5, "ollama has ended"),
        (Told(Happening.UNHEALTHY), 4, "ollama fails its health check"),
        (Told(Happening.HEALTHY), 5, "ollama passes its health check"),
    ],
)
def test_each_word_is_one_line_and_one_look(story: Story, word: Told, priority: int, text: str) -> None:
    (line,) = story.told(word)
    assert line["event"] == "runtime.told"
    assert line["priority"] == priority
    assert line["happening"] == word.happening
    assert line["exit_code"] == word.exit_code
    assert text in line["message"]
    assert story.heard == 1


def test_a_name_is_listened_to_once_and_a_stream_that_broke_is_taken_up_at_the_next_look(
    story: Story,
) -> None:
    story.follow(OLLAMA)
    story.told(Told(Happening.HEALTHY))
    assert story.port.listeners == ["ollama"]
    assert story.broken("absent") == [], "the looks say that Docker is away"
    story.follow(OLLAMA)
    story.told(Told(Happening.HEALTHY))
    assert story.port.listeners == ["ollama", "ollama"]


def test_a_right_that_is_missing_is_said_once_and_holds_until_another_engine_is_configured(
    story: Story,
) -> None:
    (line,) = story.broken("denied")
    assert line["event"] == "guard.warned"
    assert line["message"].endswith("is seen by looking alone: no more words")
    story.loop.now += 100 * SELDOM_SECONDS
    story.follow(OLLAMA)
    assert story.port.listeners == ["ollama"]
    story.part.follow([OLLAMA], lambda _: story.port)
    story.told(Told(Happening.HEALTHY))
    assert story.port.listeners == ["ollama", "ollama"]


@pytest.mark.parametrize(
    "why", ["refused", "bad_answer", RuntimeError("half an object"), ImportError("no docker"), KeyError("x")]
)
def test_what_went_wrong_otherwise_is_said_once_and_tried_again_seldom(
    story: Story, why: str | Exception
) -> None:
    """A proxy's 500 in a bad moment, an answer that is none, even a defect: no thread ends unheard."""
    (line,) = story.broken(why)
    assert line["event"] == "guard.warned"
    story.loop.now += SELDOM_SECONDS - 1
    story.follow(OLLAMA)
    assert story.port.listeners == ["ollama"]
    story.loop.now += 1
    story.follow(OLLAMA)
    assert story.broken(why) == [], "it is said once"
    story.loop.now += SELDOM_SECONDS
    story.follow(OLLAMA)
    story.told(Told(Happening.HEALTHY))
    assert len(story.port.listeners) == 3


def test_what_is_no_longer_followed_is_not_heard(story: Story) -> None:
    story.told(Told(Happening.HEALTHY))
    story.follow()
    story.port.words.put(Told(Happening.UNHEALTHY))
    assert story.port.unwanted.wait(10)
    story.loop.mailbox.run()
    assert story.heard == 1
    assert story.lines() == []


def test_units_are_polled(story: Story) -> None:
    story.follow(OLLAMA, UNIT)
    story.told(Told(Happening.HEALTHY))
    assert story.port.listeners == ["ollama"]
