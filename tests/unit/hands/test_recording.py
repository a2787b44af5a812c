"""The flight recorder's files: bounded, synced when it matters, and a broken disk costs records only."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.model import Level
from ollama_guard.core.policy import RecordPolicy
from ollama_guard.errors import ServiceUnavailable
from ollama_guard.hands import journal
from ollama_guard.hands.recording import Recording
from ollama_guard.hands.traces import FILES_LIMIT, TraceFile, trace_files
from ollama_guard.wire import Recorded, TraceWanted

HEADER = '{"trace":"ollama-guard"}\n'


class Story:
    """A recording driven by hand."""

    def __init__(self, loop: Any, state_dir: Path, **policy: Any) -> None:
        self.loop = loop
        self.recording = Recording(state_dir, RecordPolicy(**policy), loop.send, loop.mailbox, loop.clock)

    def step_at(self, now: float) -> None:
        """Let it do what is due at that time, and wait for its lane."""
        self.loop.now = now
        self.recording.step()
        self.loop.run_until(lambda: self.recording._writing is None)

    def say(self, *lines: str, level: Level = Level.OK, starts: bool = False) -> None:
        """The sentinel sends lines."""
        text = "".join(f"{line}\n" for line in lines)
        self.recording.recorded(
            Recorded(HEADER + text if starts else text, len(lines) + starts, level, starts)
        )

    def begin(self, now: float = 1000.0) -> None:
        """The recording asks, and the sentinel answers with a header."""
        self.step_at(now)
        self.say(starts=True)
        self.step_at(now)

    def wanted(self) -> list[TraceWanted]:
        """What was asked of the sentinel."""
        return [message for message in self.loop.sent if isinstance(message, TraceWanted)]

    def files(self) -> list[str]:
        """What stands in the files, oldest first."""
        return [path.read_text() for path in trace_files(self.recording.folder)]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were synced, each time."""
    sizes: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return sizes


class Stuck:
    """A disk on which a sync does not come back until it is ``released``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, _: int) -> None:
        self.entered.set()
        self.released.wait(30)


def test_a_trace_is_asked_for_and_its_header_starts_a_file(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.say("too early")
    story.begin()
    assert story.wanted() == [TraceWanted(wanted=True, lost=1)]
    assert story.files() == [HEADER]
    (path,) = trace_files(tmp_path / "traces")
    assert path.name.startswith("trace-000001-2")
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_calm_records_are_gathered_for_ten_seconds_and_synced_once_a_minute(
    loop: Any, tmp_path: Path, synced: list[int]
) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    assert len(synced) == 1
    for second in range(1, 121):
        story.say("calm")
        story.step_at(1000.0 + second)
    assert len(synced) == 3
    assert story.files() == [HEADER + "calm\n" * 120]
    story.say("late")
    story.step_at(1121.0)
    assert "late" not in story.files()[0]


def test_a_level_is_on_the_disk_at_once_and_then_every_five_seconds(
    loop: Any, tmp_path: Path, synced: list[int]
) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    story.say("soft", level=Level.SOFT)
    story.step_at(1000.1)
    assert len(synced) == 2
    assert synced[-1] == len(HEADER) + 5
    for tenth in range(2, 112):
        story.say("more", level=Level.SOFT)
        story.step_at(1000.0 + tenth / 10)
    assert len(synced) == 4
    story.say("calm again", level=Level.OK)
    story.step_at(1011.5)
    assert len(synced) == 5
    assert story.files()[0].endswith("calm again\n")


def test_what_is_not_synced_yet_is_synced_without_anything_new(
    loop: Any, tmp_path: Path, synced: list[int]
) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    story.say("calm")
    story.step_at(1010.0)
    assert len(synced) == 1
    assert story.recording.due_at() == 1060.0
    story.step_at(1060.0)
    assert len(synced) == 2


def test_a_full_file_is_followed_by_another_that_begins_with_a_header(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path, max_file_bytes=100, max_total_bytes=1000)
    story.begin()
    story.say("x" * 100, level=Level.SOFT)
    story.step_at(1001.0)
    assert story.wanted()[-1] == TraceWanted(wanted=True, continues=True)
    story.say("still the old one", level=Level.SOFT)
    story.step_at(1002.0)
    story.say("new", starts=True, level=Level.SOFT)
    story.step_at(1003.0)
    assert [text.count("trace") for text in story.files()] == [1, 1]
    assert story.files()[0].endswith("still the old one\n")
    assert story.files()[1] == HEADER + "new\n"
    assert len(story.wanted()) == 2


def test_a_header_after_a_gap_stays_in_the_file(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    story.say("after a gap", starts=True)
    story.step_at(1001.0)
    assert len(story.files()) == 1


def test_the_oldest_files_go_and_foreign_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "incident.jsonl").write_text("x" * 5000)
    for _ in range(10):
        TraceFile(tmp_path, 2000, 0.0).write("y" * 600)
    kept = trace_files(tmp_path)
    assert [path.name.split("-")[1] for path in kept] == ["000007", "000008", "000009", "000010"]
    assert (tmp_path / "incident.jsonl").exists()


def test_there_are_never_more_than_a_thousand_files(tmp_path: Path) -> None:
    for number in range(1, FILES_LIMIT + 50):
        (tmp_path / f"trace-{number:06}-19700101T000000Z.jsonl").touch()
    TraceFile(tmp_path, 2000, 0.0)
    assert len(trace_files(tmp_path)) == FILES_LIMIT


def test_the_order_of_files_is_not_the_clock_s(tmp_path: Path) -> None:
    """A machine without a battery clock starts in 1970, and is put right later."""
    walls = (1.7e9, 60.0, 1.8e9)
    made = [TraceFile(tmp_path, 2000, wall).path for wall in walls]
    assert trace_files(tmp_path) == made
    assert ["1970" in path.name for path in made] == [False, True, False]


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "trace-000001-19700101T000000Z.jsonl").write_text("mine")
    first = TraceFile(tmp_path, 2000, 0.0)
    assert first.path.name.startswith("trace-000002")
    assert (tmp_path / "trace-000001-19700101T000000Z.jsonl").read_text() == "mine"


def test_a_place_that_is_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "traces").write_text("")
    with pytest.raises(ServiceUnavailable, match="can't begin a trace"):
        TraceFile(tmp_path / "traces", 2000, 0.0)


def test_a_broken_disk_costs_one_warning_and_is_tried_ever_less_often(loop: Any, tmp_path: Path) -> None:
    """Meanwhile nothing is recorded; afterwards the trace says how much is missing."""
    logged, out = os.pipe()
    journal.configure({"OLLAMA_GUARD_LOG": "json"}, out)
    story = Story(loop, tmp_path)
    (tmp_path / "traces").write_text("no folder")
    story.begin()
    assert story.wanted()[-1] == TraceWanted(wanted=False)
    story.say("lost")
    story.step_at(1005.0)
    assert len(story.wanted()) == 2
    asked_at = []
    for now in range(1006, 1400):
        count = len(story.wanted())
        story.step_at(float(now))
        if len(story.wanted()) > count:
            asked_at.append(now)
            story.say(starts=True)
            story.step_at(float(now))
    assert [later - sooner for sooner, later in zip([1000, *asked_at], asked_at, strict=False)] == [
        10, 20, 40, 80, 160,
    ]  # fmt: skip
    (tmp_path / "traces").unlink()
    story.begin(2000.0)
    assert story.files() == [HEADER]
    assert story.wanted()[-1].lost > 0
    os.close(out)
    with os.fdopen(logged) as log:
        events = log.read()
    assert events.count("nothing is recorded until the disk is well again") == 1
    assert events.count("traces are written again") == 1


def test_a_disk_that_hangs_holds_nobody_up_and_is_not_asked_again(
    loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    disk = Stuck(monkeypatch)
    story.say("stuck", level=Level.SOFT)
    loop.now = 1001.0
    story.recording.step()
    assert disk.entered.wait(10)
    for _ in range(1000):
        story.say("x" * 10_000, level=Level.SOFT)  # five times what may wait
    loop.now = 1008.0
    story.recording.step()
    loop.run_until(lambda: story.recording._writing is None)
    assert story.wanted()[-1] == TraceWanted(wanted=False)
    for now in (1020.0, 1040.0, 1300.0):
        loop.now = now
        story.recording.step()
    assert story.wanted()[-1] == TraceWanted(wanted=False)
    disk.released.set()
    while story.recording._lane.stuck:
        pass
    story.begin(1400.0)
    assert len(story.files()) == 2
    assert story.wanted()[-1].lost > 200


def test_what_can_not_wait_any_more_makes_a_gap(
    loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk: what is in line is written, the rest is lost, and a header follows."""
    story = Story(loop, tmp_path)
    story.begin()
    disk = Stuck(monkeypatch)
    story.say("slow", level=Level.SOFT)
    loop.now = 1001.0
    story.recording.step()
    assert disk.entered.wait(10)
    for _ in range(300):
        story.say("x" * 10_000, level=Level.SOFT)
    disk.released.set()
    loop.run_until(lambda: story.recording._writing is None)
    story.step_at(1002.0)
    wish = story.wanted()[-1]
    assert wish.wanted
    assert wish.lost > 80
    story.say("after", starts=True, level=Level.SOFT)
    story.step_at(1003.0)
    (text,) = story.files()
    assert text.count("\n") == 2 + (300 - wish.lost) + 2
    assert text.endswith(f"{HEADER}after\n")


def test_a_new_folder_and_an_end_by_reload(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    story.recording.follow(RecordPolicy(folder=str(tmp_path / "other")))
    assert story.wanted()[-1] == TraceWanted(wanted=False)
    story.begin(1001.0)
    assert story.recording.folder == tmp_path / "other"
    assert story.files() == [HEADER]
    story.recording.follow(RecordPolicy(enabled=False))
    story.step_at(2000.0)
    assert story.wanted()[-1] == TraceWanted(wanted=False)
    assert story.recording.due_at() == float("inf")


def test_a_reload_in_the_middle_of_a_write_leaves_the_old_file(
    loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    disk = Stuck(monkeypatch)
    story.say("old", level=Level.SOFT)
    loop.now = 1001.0
    story.recording.step()
    assert disk.entered.wait(10)
    story.recording.follow(RecordPolicy(folder=str(tmp_path / "other")))
    disk.released.set()
    loop.run_until(lambda: story.recording._writing is None)
    story.begin(1002.0)
    assert story.files() == [HEADER]


def test_the_last_records_are_written_at_the_end(loop: Any, tmp_path: Path, synced: list[int]) -> None:
    story = Story(loop, tmp_path)
    story.begin()
    story.say("the last")
    loop.clock = story.recording._clock = monotonic_from(loop)
    story.recording.finish()
    assert story.files() == [f"{HEADER}the last\n"]
    assert synced[-1] == len(HEADER) + len("the last\n")


def monotonic_from(loop: Any) -> Callable[[], float]:
    """A clock that goes on by itself from where the loop's stands."""
    began, start = time.monotonic(), loop.now
    return lambda: start + time.monotonic() - began


def test_a_recording_that_is_off_asks_for_nothing(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path, enabled=False)
    story.step_at(1000.0)
    story.recording.finish()
    assert story.wanted() == []
    assert not (tmp_path / "traces").exists()
