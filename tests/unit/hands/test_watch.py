"""What the sentinel learns of Ollama, and when; with a port that answers as it is told."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from ollama_guard.core.model import ApiReading, CatalogueEntry, LoadedModel
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.errors import OllamaError
from ollama_guard.hands import journal
from ollama_guard.hands.watch import CATALOGUE_SECONDS, OllamaWatch
from ollama_guard.wire import ApiObserved, CatalogueObserved

BLOB = "sha256:" + "a" * 64
MODEL = LoadedModel("m:latest", BLOB, 5, 0, 60.0)
ENTRY = CatalogueEntry(BLOB, ("m:latest",), 5)
REFUSED = OllamaError("refused", "GET /api/ps: can't connect")


class ScriptedOllama:
    """An `OllamaPort` whose answers are set from outside; an exception is raised."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"version": "0.33.0", "loaded": (), "catalogue": (ENTRY,)}
        self.asked: list[str] = []

    def _answer(self, call: str) -> Any:
        self.asked.append(call)
        answer = self.answers[call]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def version(self, deadline_seconds: float) -> str:
        """As told."""
        del deadline_seconds
        return str(self._answer("version"))

    def loaded(self, deadline_seconds: float) -> tuple[LoadedModel, ...]:
        """As told."""
        del deadline_seconds
        loaded: tuple[LoadedModel, ...] = self._answer("loaded")
        return loaded

    def catalogue(self, deadline_seconds: float) -> tuple[CatalogueEntry, ...]:
        """As told."""
        del deadline_seconds
        entries: tuple[CatalogueEntry, ...] = self._answer("catalogue")
        return entries

    def unload(self, model: str, deadline_seconds: float) -> str:
        """Not asked by the watch."""
        raise NotImplementedError

    def fail(self, problem: OllamaError) -> None:
        """From now on every call fails."""
        self.answers = dict.fromkeys(self.answers, problem)


class Story:
    """A watch on a scripted Ollama, stepped by hand."""

    def __init__(self, loop: Any, policy: Policy | None = None) -> None:
        self.loop = loop
        self.ollama = ScriptedOllama()
        self.urls: list[str] = []
        self.watch = OllamaWatch(policy or Policy(), self._make, loop.mailbox, loop.send, loop.clock)

    def _make(self, url: str) -> ScriptedOllama:
        self.urls.append(url)
        return self.ollama

    def step(self) -> ApiReading:
        """Start what is due and run until all of it has answered; the newest reading."""
        self.watch.step()
        self.loop.run_until(self.settled)
        return self.reading

    def settled(self) -> bool:
        """Whether no call is under way."""
        schedule = self.watch._schedule
        asking = schedule.ps_due_at() is None or schedule._version_asking
        return not asking and self.watch._catalogue_due_at is not None

    @property
    def reading(self) -> ApiReading:
        """The newest that the sentinel was told."""
        readings: list[ApiReading] = [m.api for m in self.loop.sent if isinstance(m, ApiObserved)]
        return readings[-1]

    @property
    def catalogues(self) -> list[tuple[CatalogueEntry, ...]]:
        """Every catalogue that the sentinel was told."""
        return [m.entries for m in self.loop.sent if isinstance(m, CatalogueObserved)]


@pytest.fixture
def story(loop: Any) -> Story:
    tale = Story(loop)
    tale.step()
    return tale


def test_at_the_start_version_ps_and_catalogue_are_asked_once(story: Story) -> None:
    assert sorted(story.ollama.asked) == ["catalogue", "loaded", "version"]
    assert story.reading.version == "0.33.0"
    assert story.reading.loaded_at == story.reading.answered_at == 1000.0
    assert story.catalogues == [(ENTRY,)]


def test_when_calm_only_ps_is_asked(story: Story) -> None:
    story.ollama.asked.clear()
    story.loop.now = 1014.0
    story.watch.step()
    assert story.ollama.asked == []
    story.loop.now = 1015.0
    assert story.step().loaded_at == 1015.0
    assert story.ollama.asked == ["loaded"]


def test_a_failed_ps_keeps_the_last_list_with_its_age_and_says_why(story: Story) -> None:
    story.ollama.answers["loaded"] = (MODEL,)
    story.loop.now = 1015.0
    story.step()
    story.ollama.answers["loaded"] = OllamaError("timeout", "GET /api/ps was not answered within 10.0 s")
    story.loop.now = 1030.0
    story.step()
    assert story.reading.loaded == (MODEL,)
    assert story.reading.loaded_at == 1015.0
    assert story.reading.loaded_error == "timeout: GET /api/ps was not answered within 10.0 s"


def test_slow_is_not_dead_while_version_answers(story: Story) -> None:
    story.ollama.answers["loaded"] = OllamaError("timeout", "too slow")
    story.loop.now = 1015.0
    story.step()
    story.step()
    assert story.reading.answered_at == 1015.0
    assert story.reading.loaded_error == "timeout: too slow"


def test_a_new_model_is_looked_up_in_the_catalogue_soon(story: Story) -> None:
    stranger = replace(MODEL, name="new:latest", blob=None)
    story.ollama.answers["loaded"] = (stranger,)
    story.ollama.asked.clear()
    story.loop.now = 1015.0
    story.step()
    story.loop.now = 1020.0
    story.step()
    assert story.loop.now < 1000.0 + CATALOGUE_SECONDS
    assert len(story.catalogues) == 1


def test_only_a_changed_catalogue_is_sent_again(story: Story) -> None:
    for turn in range(1, 3):
        story.loop.now = 1000.0 + turn * CATALOGUE_SECONDS
        story.step()
        story.ollama.answers["catalogue"] = (replace(ENTRY, size_bytes=6),)
    assert story.catalogues == [(ENTRY,), (replace(ENTRY, size_bytes=6),)]


def test_a_catalogue_that_was_asked_for_before_names_changed_is_not_believed(story: Story) -> None:
    """Else a model that was just hidden would be taken for one that a client has brought back."""
    story.loop.now = 1000.0 + CATALOGUE_SECONDS
    story.ollama.answers["catalogue"] = (ENTRY, replace(ENTRY, blob="sha256:" + "9" * 64))
    story.watch.step()
    while story.ollama.asked.count("catalogue") < 2:  # the lane's thread has it
        pass
    story.loop.now += 0.5
    story.watch.look_again()
    story.ollama.answers["catalogue"] = (replace(ENTRY, size_bytes=6),)
    story.loop.run_until(story.settled)
    story.step()
    assert story.catalogues == [(ENTRY,), (replace(ENTRY, size_bytes=6),)]


def test_another_url_is_another_ollama(story: Story) -> None:
    story.watch.follow(Policy(ollama=OllamaPolicy(url="http://127.0.0.1:9")))
    assert story.urls == ["http://127.0.0.1:11434", "http://127.0.0.1:9"]

    story.step()


def test_lost_and_found_are_each_told_once(loop: Any) -> None:
    reading, writing = os.pipe()
    journal.configure({"OLLAMA_GUARD_LOG": "json"}, writing)
    story = Story(loop)
    story.step()
    good = dict(story.ollama.answers)
    story.ollama.fail(REFUSED)
    for loop.now in (1015.0, 1017.0, 1019.0):
        story.step()
    story.ollama.answers = good
    loop.now = 1021.0
    story.step()
    os.close(writing)
    with os.fdopen(reading) as log:
        events = [json.loads(line) for line in log]
    assert [event["event"] for event in events] == ["ollama.found", "ollama.lost", "ollama.found"]
    assert events[0]["dialect"] == "0.30 or newer"
    assert events[1]["kind"] == "refused"


def test_a_fault_of_our_own_is_not_told_as_a_time_out(story: Story) -> None:
    """A time-out would be a word about Ollama, from which a freeze is told."""
    story.ollama.answers["loaded"] = ZeroDivisionError("ours")
    story.loop.now = 1015.0
    assert story.step().error.startswith("broken: ")
