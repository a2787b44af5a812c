"""The demo as a whole: the real guard, the fake Ollama, a neighbour, in processes of their own."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.cgroups import MemoryCgroup
from beds.show import END_SECONDS, Show
from ollama_guard.core.model import ApiReading
from ollama_guard.core.policy import MIB, Policy
from ollama_guard.demo.sentinel import senses_of
from ollama_guard.demo.world import Cast, World
from ollama_guard.sentinel import clock
from ollama_guard.sentinel.sensors import Sensors
from ollama_guard.testing.fake import FakeOllama

QUICK = ("--pace", "3")


def test_the_show_tells_the_whole_story_into_a_pipe_and_leaves_nothing_behind() -> None:
    """The idle model goes, the busy one answers on, the giant is aborted and condemned, all is well again.

    The one show of these tests at the pace for watchers, who were promised 90 s at most.
    """
    began = time.monotonic()
    with Show() as show:
        assert show.wait() == 0, show.text
        assert time.monotonic() - began <= 90
        in_order(
            show.text,
            r"chapter +The stage is set: A small machine",
            r"chapter +Calm",
            r"memory +\d+ MiB left, ok; chat:1b idle \d+ MiB, coder:3b idle \d+ MiB\n",
            r"chapter +A chat",
            r"chapter +A neighbour",
            r"decision\.made +host has .*: unload coder:3b \(idle",
            r"model\.unloaded +coder:3b unloaded, \d+ MiB came back",
            r"chapter +Too big",
            r"load\.aborted +the load of giant:70b was aborted",
            r"blob\.condemned +giant:70b",
            r"decision\.made +giant:70b is condemned: killed at birth",
            r"chapter +Room again",
            r"level\.changed +host: soft -> ok",
            r"answers of chat:1b came whole \(\d+ words\), 0 were cut",
            r"coder:3b came back when it was asked for",
            r"With the guard at least \d+ MiB of .* stayed available",
            r"Without it this machine would have been out of memory at 00:\d\d",
            r"Every decision can be replayed:\n  \S+ replay ~/\S+\.jsonl",
        )
        assert "\x1b" not in show.text, "no escape sequences in a pipe"
        assert "the same" in show.replay()
        assert nothing_left(show)


def test_the_time_without_the_guard_is_what_a_show_without_the_guard_measures() -> None:
    """The prediction is put to the test: from the neighbour's start to the end of memory, both ways."""
    with Show(*QUICK) as guarded, Show(*QUICK, "--without-guard") as unguarded:
        assert guarded.wait() == 0, guarded.text
        assert unguarded.wait() == 0, unguarded.text
        predicted = seconds(guarded.text, r"out of memory at (\d\d:\d\d)") - neighbour_at(guarded.text)
        measured = seconds(unguarded.text, r"out of memory at (\d\d:\d\d)") - neighbour_at(unguarded.text)
        assert abs(predicted - measured) <= 2, (guarded.text, unguarded.text)
        assert "unloaded" not in unguarded.text
        assert nothing_left(unguarded)


def test_on_a_terminal_it_draws_on_the_other_screen_and_gives_the_first_back() -> None:
    with Show(*QUICK, terminal=(80, 24)) as show:
        assert show.wait() == 0, show.text
        entered, left = show.text.index("\x1b[?1049h"), show.text.index("\x1b[?1049l")
        frames, after = show.text[entered:left], show.text[left:]
        for part in ("A neighbour", "Too big", "condemned"):
            assert part in frames
        assert "out of memory at" in after, "what was seen stays to be read"
        assert "\x1b[?25h" in after + frames, "the cursor is there again"
        assert longest_line(frames) <= 80
        assert nothing_left(show)


def test_twenty_columns_are_enough_and_ctrl_c_gives_the_terminal_back() -> None:
    with Show(*QUICK, terminal=(20, 10)) as show:
        show.wait_text("A neighbour")
        show.signal(signal.SIGINT)
        assert show.wait(10) == 130, show.text
        entered, left = show.text.index("\x1b[?1049h"), show.text.index("\x1b[?1049l")
        assert 0 < longest_line(show.text[entered:left]) <= 20
        assert "nothing is left" in show.text[left:]
        assert nothing_left(show)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("ollama-guard demo:", signal.SIGINT),
        ("chapter         Calm", signal.SIGINT),
        ("neighbour growing", signal.SIGINT),
        ("load.aborted", signal.SIGTERM),
        ("A neighbour", signal.SIGHUP),
    ],
)
def test_interrupted_at_any_moment_it_leaves_nothing_behind(moment: str, number: int) -> None:
    with Show(*QUICK) as show:
        show.wait_text(moment)
        began = time.monotonic()
        show.signal(number)
        assert show.wait(10) == 130, show.text
        assert time.monotonic() - began <= END_SECONDS, show.text
        assert f"ended by {signal.Signals(number).name}; nothing is left" in show.text
        assert show.traces() == []
        assert "Traceback" not in show.text
        assert nothing_left(show)


@pytest.mark.parametrize("terminal", [None, (80, 24)], ids=["pipe", "terminal"])
def test_when_nobody_reads_any_more_it_ends(terminal: tuple[int, int] | None) -> None:
    with Show(*QUICK, terminal=terminal) as show:
        show.wait_text("A chat")
        began = time.monotonic()
        show.hang_up()
        assert show.wait(10) == 130
        assert time.monotonic() - began <= END_SECONDS
        assert nothing_left(show)


def test_a_killed_show_takes_its_processes_with_it() -> None:
    """Nobody can clean up after SIGKILL, so the folder stays; the processes and their memory must not."""
    with Show(*QUICK) as show:
        show.wait_text("neighbour growing")
        assert len(show.left_processes()) > 5, "server, runners, sentinel with its helpers, hands, neighbour"
        show.signal(signal.SIGKILL)
        deadline = time.monotonic() + 15
        while show.left_processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not show.left_processes()


def test_another_ollama_on_the_same_machine_is_neither_seen_nor_touched() -> None:
    """Its model was idle for longer, so it would have gone first; it stays, and was never even asked."""
    with FakeOllama(["theirs=40MiB"]) as other:
        other.load("theirs", keep_alive=3600)
        pid, asked = other.runner_pid("theirs"), other.log().count("[GIN]")
        with Show(*QUICK) as show:
            show.wait_text("coder:3b unloaded")
            show.signal(signal.SIGINT)
            assert show.wait(10) == 130
            assert "theirs" not in show.text
        assert other.runner_pid("theirs") == pid
        assert other.log().count("[GIN]") == asked


def test_the_narrowed_eyes_see_the_show_s_server_only(tmp_path: Path) -> None:
    """The same sensors on the machine's own /proc see both servers: narrowing is what hides the other."""
    with FakeOllama(["mine=20MiB"]) as mine, FakeOllama(["theirs=20MiB"]) as theirs:
        theirs.load("theirs")
        mine.load("mine")
        world = World(
            tmp_path, 512 * MIB, lambda: Cast(dict.fromkeys((mine.pid, *mine.orphans()), "ollama serve"))
        )
        narrowed, open_eyed = senses_of(tmp_path)(Policy()), Sensors(Policy())
        try:
            of_both = {mine.pid, theirs.pid, mine.runner_pid("mine"), theirs.runner_pid("theirs")}
            deadline = time.monotonic() + 20
            while not of_both <= seen_by(open_eyed):
                assert time.monotonic() < deadline, "the open-eyed sensors see both"
            for _ in range(15):
                seen = seen_by(narrowed)
            assert seen == {mine.pid, mine.runner_pid("mine")}
        finally:
            narrowed.close()
            open_eyed.close()
            world.close()


def test_too_little_memory_is_refused_in_one_sentence(memory_cgroup: Callable[[int], MemoryCgroup]) -> None:
    cgroup = memory_cgroup(500 * MIB)
    with Show(launcher=cgroup.popen) as show:
        assert show.wait() == 1
        assert re.search(r"ollama-guard: this machine has \d+ MiB of memory available; the demo", show.text)
        assert show.text.count("\n") == 1
        assert nothing_left(show)


def longest_line(frames: str) -> int:
    """Characters of the longest line that was drawn."""
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames.replace("\x1b[H", "\n"))
    return max(len(line) for line in re.split(r"[\r\n]+", drawn))


def in_order(text: str, *patterns: str) -> None:
    """Whether each pattern is found after the one before it."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(text, at)
        assert found, f"not found after {text[:at][-60:]!r}: {pattern}\n{text}"
        at = found.end()


def seconds(text: str, pattern: str) -> int:
    """The show's time that the pattern's group shows."""
    found = re.search(pattern, text)
    assert found, text
    minutes, rest = found[1].split(":")
    return 60 * int(minutes) + int(rest)


def neighbour_at(text: str) -> int:
    """When the neighbour came."""
    return seconds(text, r"(\d\d:\d\d)  chapter +A neighbour: A job")


def nothing_left(show: Show) -> bool:
    """Whether neither a process nor a file of it is there, but for the trace of a whole show."""
    assert not show.left_processes()
    assert not show.left_files()
    return True


def seen_by(sensors: Sensors) -> set[int]:
    """The PIDs of the servers and runners that these sensors have proven; takes a tenth of a second."""
    time.sleep(0.1)
    snapshot = sensors.sense(clock.boottime(), clock.wall(), ApiReading())
    return {s.pid for s in snapshot.servers} | {r.pid for r in snapshot.runners if r.proven}
