"""The status board and the public file: fresh, whole, and never a burden when the disk is bad."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ollama_guard.hands import journal
from ollama_guard.hands.faces import Meter, Sizes, StatusBoard, StatusFile
from ollama_guard.hands.weighing import ON_DEMAND, Scales


class Story:
    """A status file driven by hand."""

    def __init__(self, loop: Any, folder: Path) -> None:
        self.loop = loop
        self.folder = folder
        self.board = StatusBoard(loop.clock, Scales(loop.mailbox, loop.clock))
        self.file = StatusFile(folder, self.board, loop.mailbox, loop.clock)

    def post(self, **status: Any) -> None:
        """A new status from the sentinel."""
        self.board.post(status)
        self.file.posted()

    def step_at(self, now: float) -> bool:
        """Let the file do what is due at that time; whether it tried to write."""
        self.loop.now = now
        due = self.file.due_at() <= now and self.board.document() is not None
        self.file.step()
        if due:
            self.loop.run_until(lambda: self.file.due_at() > now and self.file.due_at() != float("inf"))
        return due

    def content(self) -> Any:
        """What stands in the file."""
        return json.loads((self.folder / "status.json").read_text())


def test_the_file_holds_the_newest_status_and_anyone_may_read_it(loop: Any, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        story = Story(loop, tmp_path / "state" / "public")
        story.post(level="ok")
        story.step_at(1000.0)
    finally:
        os.umask(before)
    assert story.content()["level"] == "ok"
    assert stat.S_IMODE((story.folder / "status.json").stat().st_mode) == 0o644
    assert stat.S_IMODE(story.folder.stat().st_mode) == 0o755
    assert [entry.name for entry in story.folder.iterdir()] == ["status.json"]


def test_a_change_is_written_at_most_once_a_second_and_the_rest_every_seven(
    loop: Any, tmp_path: Path
) -> None:
    story = Story(loop, tmp_path)
    story.post(level="ok", domains=[1])
    assert story.step_at(1000.0)
    story.post(level="hard", domains=[2])
    assert not story.step_at(1000.5)
    assert story.step_at(1001.0)
    assert not story.step_at(1005.0)
    story.post(level="hard", domains=[3])
    assert not story.step_at(1007.5)
    assert story.step_at(1008.0)
    assert story.content()["domains"] == [3]


def test_a_step_on_the_ladder_is_written_at_once_and_a_number_in_its_reason_is_not(
    loop: Any, tmp_path: Path
) -> None:
    story = Story(loop, tmp_path)
    story.post(tiers=[{"name": "light", "allowed": True, "reason": "1 GiB"}])
    assert story.step_at(1000.0)
    story.post(tiers=[{"name": "light", "allowed": True, "reason": "2 GiB"}])
    assert not story.step_at(1001.5)
    story.post(tiers=[{"name": "light", "allowed": False, "reason": "2 GiB"}])
    assert story.step_at(1002.0)
    assert story.content()["tiers"][0]["allowed"] is False


def test_old_news_is_not_written_again_so_that_the_file_grows_old_with_a_silent_sentinel(
    loop: Any, tmp_path: Path
) -> None:
    story = Story(loop, tmp_path)
    story.post(level="ok")
    story.step_at(1000.0)
    (tmp_path / "status.json").unlink()
    story.step_at(1011.0)
    assert not (tmp_path / "status.json").exists()
    story.post(level="ok")
    story.step_at(1013.0)
    assert story.content()["level"] == "ok"


def test_a_disk_that_fails_costs_one_warning_and_ever_rarer_tries(loop: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as sink:
        journal.configure({"OLLAMA_GUARD_LOG": "json"}, sink.fileno())
        (tmp_path / "blocked").write_text("a file where the folder should be")
        story = Story(loop, tmp_path / "blocked" / "public")
        tries = 0
        for second in range(200):
            story.post(level="ok" if second % 2 else "soft")
            tries += story.step_at(1000.0 + second)
        (tmp_path / "blocked").unlink()
        loop.now = 2000.0
        story.post(level="ok")
        story.step_at(2000.0)
    assert tries <= 5
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["guard.warned", "guard.reported"]
    assert "Not a directory" in events[0]["message"]
    assert story.content()["level"] == "ok"


def test_a_file_that_can_not_be_replaced_leaves_the_old_one_whole(loop: Any, tmp_path: Path) -> None:
    story = Story(loop, tmp_path)
    story.post(level="ok")
    story.step_at(1000.0)
    (tmp_path / ".status.json.new").mkdir()
    story.post(level="hard")
    story.step_at(1002.0)
    assert story.content()["level"] == "ok"


def test_the_board_adds_what_both_processes_take_or_says_why_not(loop: Any) -> None:
    board = StatusBoard(loop.clock, Scales(loop.mailbox, loop.clock))
    assert board.document() is None
    board.post({"guard": {"pid": 5, "pss_bytes": None}, "unknown": {"playbook": "not built yet"}})
    document = board.document()
    assert document is not None
    assert document["guard"] == {"pid": 5, "pss_bytes": None, "age_seconds": 0.0}
    assert document["unknown"] == {
        "playbook": "not built yet",
        "guard.pss_bytes": "not measured yet",
        "consumers": ON_DEMAND,
    }
    board.sizes = Sizes(own=20, total=35)
    document = board.document()
    assert document is not None
    assert document["guard"] == {"pid": 5, "pss_bytes": 35, "age_seconds": 0.0}
    assert document["unknown"] == {"playbook": "not built yet", "consumers": ON_DEMAND}


def test_the_board_tells_how_long_ago_the_sentinel_spoke(loop: Any) -> None:
    board = StatusBoard(loop.clock, Scales(loop.mailbox, loop.clock))
    board.post({"guard": {"pid": 5}})
    loop.now += 20.04
    document = board.document()
    assert document is not None
    assert document["guard"]["age_seconds"] == 20.0
    board.post({"guard": {"pid": 5}})
    document = board.document()
    assert document is not None
    assert document["guard"]["age_seconds"] == 0.0


def test_the_meter_measures_this_process_for_real(loop: Any) -> None:
    board = StatusBoard(loop.clock, Scales(loop.mailbox, loop.clock))
    meter = Meter(board, loop.mailbox, loop.clock)
    meter.step()
    loop.run_until(lambda: board.sizes.own is not None)
    assert 4 * 1024**2 < (board.sizes.own or 0) < 4 * 1024**3
