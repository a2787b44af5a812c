"""`replay` as a person runs it: what it says of good traces, and one sentence for each bad one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_guard.cli.replayed import notes
from ollama_guard.core.policy import MIB
from ollama_guard.core.replay import Comparison
from unit.core.flight import Flight

MAIN = "from ollama_guard.cli import main; main()"

Replayed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """A trace of a rescue: an idle model is unloaded."""
    world = Flight()
    world.begin()
    world.load("idle", 800 * MIB)
    world.load("busy", 400 * MIB, busy=True)
    world.play(3)
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    world.play(20)
    return [f"{line}\n" for line in world.lines]


@pytest.fixture
def trace(tmp_path: Path, lines: list[str]) -> Path:
    """The same as a file, in a folder of its own."""
    path = tmp_path / "traces" / "trace-000001-20260824T031502Z.jsonl"
    path.parent.mkdir()
    path.write_text("".join(lines))
    return path


def replay(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-I", "-c", MAIN, "replay", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, input=stdin,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip


def sentence(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line on stderr of a run that failed."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ollama-guard: ")
    return done.stderr


def test_a_file_a_folder_and_standard_input_replay_the_same(trace: Path) -> None:
    (trace.parent / "trace-000002-20260824T031509Z.jsonl").touch()  # the power went when it was begun
    for done in (replay(trace), replay(trace.parent), replay("-", stdin=trace.read_text())):
        assert (done.returncode, done.stderr) == (0, "")
        assert "decisions replayed, all the same" in done.stdout


def test_json_says_the_same_to_a_program(trace: Path) -> None:
    told = json.loads(replay("--json", trace).stdout)
    assert told["identical"] is True
    assert told["decisions"] > 10
    assert (told["first_difference"], told["spans"], told["notes"]) == (None, [], [])


def test_the_first_decision_that_differs_is_told_with_both_sentences(trace: Path, lines: list[str]) -> None:
    """Of a trace whose reading was changed by hand."""
    place = next(i for i, line in enumerate(lines) if i > 2 and '"available_bytes"' in line)
    record = json.loads(lines[place])
    record["domains"]["0"]["available_bytes"] = 30 * MIB
    trace.write_text("".join([*lines[:place], json.dumps(record) + "\n", *lines[place + 1 :]]))
    done = replay(trace)
    assert done.returncode == 1
    assert f"line {place + 1}, 2023-" in done.stdout
    assert "recorded  ok, nothing: nothing to do" in done.stdout
    assert "replayed  critical" in done.stdout
    told = json.loads(replay(trace, "--json").stdout)
    assert told["first_difference"]["line"] == place + 1
    assert told["first_difference"]["replayed"]["level"] == "critical"


def test_another_file_shows_when_and_how_it_would_have_differed(trace: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.toml"
    new.write_text('[thresholds.host]\nsoft = "50%"\nhard = "25%"\n')
    done = replay(trace, "--config", new)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["from", "(UTC)", "for", "recorded", "with", "the", "new", "file"]
    assert "ok, nothing" in rows[0]
    assert "soft, unload_idle idle" in done.stdout
    assert "on other things would have been done" in done.stdout
    assert "not what would have happened" in done.stdout
    told = json.loads(replay(trace, "--config", new, "--json").stdout)
    assert told["spans"][0]["recorded"]["level"] == "ok"
    assert told["differing_decisions"] > 0


def test_a_file_that_changes_nothing_says_so(trace: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.toml"
    new.write_text('[ollama]\npoll = "20s"\n')
    done = replay(trace, "--config", new)
    assert done.returncode == 0
    assert "level and actions would have been the same" in done.stdout


def test_a_last_line_that_is_cut_off_is_told_and_left_out(trace: Path) -> None:
    whole = json.loads(replay("--json", trace).stdout)["decisions"]
    trace.write_bytes(trace.read_bytes()[:-9])
    done = replay(trace)
    assert done.returncode == 0
    assert "its last line is cut off" in done.stdout
    assert f"{whole - 1} decisions replayed, all the same" in done.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"root:x:0:0:root\n", "it is no trace of ollama-guard"),
        (os.urandom(5000), "it is no trace of ollama-guard"),
        (b'{"trace":"ollama-guard","format":9,"guard":"7.0"}\n', "format 9, written by ollama-guard 7.0"),
        (
            b'{"trace":"ollama-guard","format":1}\n',
            "line 1 can't be replayed by this version: guard: missing",
        ),
        (b"x" * (16 * 1024 * 1024 + 10), "a line of more than 16 MiB"),
    ],
)
def test_what_is_no_trace_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    told = sentence(replay(path))
    assert said in told
    assert str(path) in told


def test_a_policy_of_another_version_is_one_sentence(trace: Path, lines: list[str]) -> None:
    trace.write_text(lines[0].replace('"policy":{', '"policy":{"frobnicate":1,') + "".join(lines[1:]))
    assert "line 1 can't be replayed by this version: policy.frobnicate: unknown key" in sentence(
        replay(trace)
    )


def test_a_broken_line_in_the_middle_is_one_sentence(trace: Path, lines: list[str]) -> None:
    trace.write_text("".join([*lines[:9], "#!garbage\n", *lines[10:]]))
    told = sentence(replay(trace))
    assert "line 10 is broken" in told
    assert re.search(r"\(after \d+ decisions\)$", told)


def test_places_without_a_trace_are_one_sentence(tmp_path: Path) -> None:
    assert "No such file" in sentence(replay(tmp_path / "nothing"))
    assert "there is no trace in this folder" in sentence(replay(tmp_path))
    if os.geteuid() == 0:
        unreadable = replay("/proc/self/mem")
        assert "can't be read" in sentence(unreadable)


def test_a_bad_new_file_is_exit_code_78(trace: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.toml"
    new.write_text("[policy]\nmode = 'paused'\n")
    assert 'policy.mode = "paused"' in sentence(replay(trace, "--config", new), 78)


def test_no_file_is_wrong_usage() -> None:
    assert replay().returncode == 2


def test_a_pipe_that_is_closed_early_is_no_error(trace: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.toml"
    new.write_text('[thresholds.host]\nsoft = "50%"\nhard = "25%"\n')
    command = f"{sys.executable} -I -c '{MAIN}' replay {trace} --config {new} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def test_a_terminal_is_shown_the_progress_and_left_clean(trace: Path, lines: list[str]) -> None:
    """Only a long file takes long enough: this one is a hundred traces, one after the other."""
    trace.write_text("".join(lines) * 100)
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", MAIN, "replay", str(trace)], stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:
                break
        assert process.stdout is not None
        assert b"all the same" in process.stdout.read()
    os.close(ours)
    assert b" % replayed" in shown
    assert shown.endswith(b"\r\x1b[K")


def test_what_the_record_lacks_is_said_in_one_sentence() -> None:
    seen = Comparison()
    seen.gaps, seen.lost, seen.cut_off = 1, 1, {"a.jsonl": 1}
    assert notes(seen) == [
        "a.jsonl: its last line is cut off (1 byte) and was left out",
        "1 gap of at least 1 record in all; what is there was replayed",
    ]
