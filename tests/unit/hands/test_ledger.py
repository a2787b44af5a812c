"""The keeper of the ledger: memory counts, the file follows, and a bad disk costs a warning."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger, Lesson
from ollama_guard.core.ledger import rows_of, with_rows
from ollama_guard.hands import journal
from ollama_guard.hands.ledger import (
    BACKOFF_FIRST_SECONDS,
    ROWS_AT_ONCE,
    SAVE_ANYWAY_SECONDS,
    SAVE_SECONDS,
    SAVE_SOON_SECONDS,
    TELL_SECONDS,
    LedgerKeeper,
)
from ollama_guard.store.footprints import FootprintStore
from ollama_guard.wire import FootprintsObserved


def key(number: int) -> FootprintKey:
    return FootprintKey(f"sha256:{number:064x}", 4096, 1)


def use(number: int) -> tuple[Lesson, ...]:
    return (Lesson(key(number), uses=1),)


class Story:
    """A keeper driven by hand, over a real file."""

    def __init__(self, loop: Any, folder: Path) -> None:
        self.loop = loop
        self.store = FootprintStore(folder / "footprints.sqlite")
        self.keeper = LedgerKeeper(self.store, loop.mailbox, loop.send, loop.clock)

    def step_at(self, now: float) -> None:
        """Let the keeper do what is due at that time, and wait for what it began."""
        self.loop.now = now
        self.keeper.step()
        while self.keeper._working:
            self.loop.run_until(lambda: not self.keeper._working)
            self.keeper.step()

    def told(self) -> Ledger:
        """The ledger as the sentinel has it by now."""
        ledger = Ledger()
        for message in self.loop.sent:
            assert isinstance(message, FootprintsObserved)
            assert len(message.rows) <= ROWS_AT_ONCE
            kept = Ledger() if message.anew else ledger
            ledger = with_rows(Ledger(message.at, message.watched_seconds, kept.by_blob), message.rows)
        return ledger

    def tell_all(self) -> Ledger:
        """Let it tell until it has told everything."""
        while self.keeper._untold or self.keeper._anew:
            self.step_at(self.loop.now + TELL_SECONDS)
        return self.told()

    def on_disk(self) -> dict[FootprintKey, int]:
        """Uses by key, as the file has them."""
        return {row.key: row.uses for row in rows_of(self.store.load().ledger)}


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Any]:
    """The log so far, as sentences."""
    path = tmp_path / "log"
    with path.open("wb") as sink:
        journal.configure({"OLLAMA_GUARD_LOG": "json"}, sink.fileno())
        yield lambda: [json.loads(line)["message"] for line in path.read_text().splitlines()]


def test_what_was_kept_is_told_a_few_rows_at_a_time(loop: Any, tmp_path: Path) -> None:
    FootprintStore(tmp_path / "footprints.sqlite").save(
        [Footprint(key(n), uses=n) for n in range(100)], 5000.0
    )
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    ledger = story.tell_all()
    assert {row.key: row.uses for row in rows_of(ledger)} == {key(n): n for n in range(100)}
    assert ledger.watched_seconds == pytest.approx(5000.0 + (loop.now - 1000.0))
    assert len(loop.sent) >= 100 / ROWS_AT_ONCE
    assert [message.anew for message in loop.sent].count(True) <= 2


def test_only_what_has_changed_is_told_again(loop: Any, tmp_path: Path) -> None:
    FootprintStore(tmp_path / "footprints.sqlite").save([Footprint(key(n), uses=n) for n in range(100)], 0.0)
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    story.tell_all()
    loop.sent.clear()
    story.keeper.learn(use(7))
    story.tell_all()
    ((row,),) = [message.rows for message in loop.sent]
    assert (row.key, row.uses) == (key(7), 8)


def test_lessons_are_written_at_most_once_a_minute_save_after_a_load(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    story.keeper.learn(use(1))
    story.step_at(1001.0)
    assert story.on_disk() == {key(1): 1}
    story.keeper.learn(use(1))
    story.step_at(1001.0 + SAVE_SECONDS - 1)
    assert story.on_disk() == {key(1): 1}
    story.step_at(1001.0 + SAVE_SECONDS)
    assert story.on_disk() == {key(1): 2}
    story.keeper.learn((Lesson(key(2), anon_bytes=5, uses=1),))
    story.step_at(loop.now + SAVE_SOON_SECONDS)
    assert story.on_disk() == {key(1): 2, key(2): 1}


def test_a_load_that_is_measured_during_a_slow_write_is_written_soon_too(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    story.keeper.learn(use(1))
    story.keeper.step()
    assert story.keeper._working
    story.keeper.learn((Lesson(key(1), anon_bytes=5),))
    story.step_at(1001.0)
    story.step_at(1001.0 + SAVE_SOON_SECONDS)
    assert {row.anon_bytes for row in rows_of(story.store.load().ledger)} == {5}


def test_what_was_learnt_before_the_file_was_read_is_added_to_it(loop: Any, tmp_path: Path) -> None:
    FootprintStore(tmp_path / "footprints.sqlite").save([Footprint(key(1), uses=5)], 100.0)
    story = Story(loop, tmp_path)
    story.keeper.learn(use(1))
    story.keeper.learn(use(2))
    story.step_at(1000.0)
    story.step_at(1001.0)
    assert story.on_disk() == {key(1): 6, key(2): 1}
    assert {row.key: row.uses for row in rows_of(story.tell_all())} == {key(1): 6, key(2): 1}


def test_the_end_writes_what_is_left(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    story.keeper.learn(use(1))
    loop.now = 1500.0
    story.keeper.close()
    assert story.on_disk() == {key(1): 1}
    assert story.store.load().ledger.watched_seconds == 500.0


def test_time_is_kept_even_when_nothing_happens(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    story.step_at(1000.0 + SAVE_ANYWAY_SECONDS)
    assert story.store.load().ledger.watched_seconds == SAVE_ANYWAY_SECONDS


def test_a_corrupt_file_is_told_of_once_and_nothing_that_was_learnt_is_lost(
    loop: Any, tmp_path: Path, events: Any
) -> None:
    (tmp_path / "footprints.sqlite").write_bytes(b"garbage" * 1000)
    story = Story(loop, tmp_path)
    story.keeper.learn(use(1))
    for second in range(5):
        story.step_at(1000.0 + second)
    assert story.on_disk() == {key(1): 1}
    (line,) = events()
    assert "it is kept as" in line


def test_a_file_that_is_spoilt_while_the_guard_runs_is_written_anew_from_memory(
    loop: Any, tmp_path: Path, events: Any
) -> None:
    FootprintStore(tmp_path / "footprints.sqlite").save([Footprint(key(1), uses=5)], 100.0)
    story = Story(loop, tmp_path)
    story.step_at(1000.0)
    story.store.path.write_bytes(b"garbage" * 1000)
    story.keeper.learn(use(2))
    story.step_at(1001.0)
    story.step_at(1001.0 + BACKOFF_FIRST_SECONDS)
    story.step_at(1002.0 + BACKOFF_FIRST_SECONDS)
    assert story.on_disk() == {key(1): 5, key(2): 1}
    assert ["in memory only" in events()[0], "kept as" in events()[1], "written again" in events()[2]] == [
        True
    ] * 3
    assert len(events()) == 3


def test_a_disk_that_fails_costs_one_warning_ever_rarer_tries_and_no_lesson(
    loop: Any, tmp_path: Path, events: Any
) -> None:
    (tmp_path / "blocked").write_text("a file where the folder should be")
    story = Story(loop, tmp_path / "blocked")
    for second in range(300):
        story.keeper.learn(use(second % 3))
        story.step_at(1000.0 + second)
    assert {row.uses for row in rows_of(story.tell_all())} == {100}
    assert len(events()) == 1
    (tmp_path / "blocked").unlink()
    story.step_at(2000.0)
    story.step_at(2001.0)
    assert story.on_disk() == {key(n): 100 for n in range(3)}
    assert len(events()) == 2


def test_a_newer_ledger_is_said_once_left_alone_and_memory_goes_on(
    loop: Any, tmp_path: Path, events: Any
) -> None:
    path = tmp_path / "footprints.sqlite"
    FootprintStore(path).save([Footprint(key(1), uses=5)], 100.0)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    story = Story(loop, tmp_path)
    for second in range(400):
        story.keeper.learn(use(2))
        story.step_at(1000.0 + second)
    story.keeper.close()
    assert {row.key: row.uses for row in rows_of(story.tell_all())} == {key(2): 400}
    assert path.read_bytes() == before
    (line,) = events()
    assert "schema 99" in line
