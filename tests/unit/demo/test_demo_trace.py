import subprocess
from pathlib import Path

import pytest

from ollama_guard.demo import trace


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guard's state directory; what is kept goes below ``tmp_path / "home"``."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.argv", ["-c"])
    (tmp_path / "state" / "traces").mkdir(parents=True)
    return tmp_path / "state"


def test_a_trace_is_kept_and_the_sentence_says_where(state: Path, tmp_path: Path) -> None:
    (state / "traces" / "a.jsonl").write_text("{}\n")
    said = trace.keep(state)
    kept = tmp_path / "home" / "ollama-guard" / "demo" / "a.jsonl"
    assert said == f"Every decision can be replayed:\n  ollama-guard replay {kept}"
    assert kept.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("started", "folder", "path", "shown"),
    [
        (".venv/bin/ollama-guard", "", "/usr/bin", ".venv/bin/ollama-guard"),
        ("bin/ollama-guard", ".venv", "/usr/bin", "bin/ollama-guard"),
        ("ollama-guard", ".venv/bin", "/usr/bin", "./ollama-guard"),
        ("{here}/.venv/bin/ollama-guard", "", "/usr/bin", "~/.venv/bin/ollama-guard"),
        ("{here}/.venv/bin/ollama-guard", "", "{here}/.venv/bin", "ollama-guard"),
        ("-c", "", "/usr/bin", "ollama-guard"),
    ],
    ids=["relative", "from elsewhere", "beside it", "below the home", "by its name", "a module"],
)
def test_the_command_can_be_pasted_where_the_show_was_started(
    started: str,
    folder: str,
    path: str,
    shown: str,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / ".venv" / "bin" / "ollama-guard"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    (state / "traces" / "a.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a state"))
    monkeypatch.setenv("PATH", f"{path.format(here=tmp_path)}:/bin")
    monkeypatch.setattr("sys.argv", [started.format(here=tmp_path), "demo"])
    command = trace.keep(state).splitlines()[1].strip()
    assert command == f"{shown} replay ~/'a state/ollama-guard/demo/a.jsonl'"
    if started != "-c":
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines() == ["replay", str(tmp_path / "a state/ollama-guard/demo/a.jsonl")]


def test_only_the_last_show_s_trace_is_kept(state: Path, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (state / "traces" / name).write_text("{}\n")
        trace.keep(state)
    assert [path.name for path in (tmp_path / "home" / "ollama-guard" / "demo").iterdir()] == ["b.jsonl"]


def test_without_a_recorder_it_says_that_there_is_no_trace(state: Path, tmp_path: Path) -> None:
    (state / "traces" / "empty.jsonl").touch()
    assert trace.keep(state) == "There is no trace to replay: this guard recorded none."
    assert not (tmp_path / "home").exists()


def test_a_home_that_can_t_be_written_costs_the_trace_only(state: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    (state / "traces" / "a.jsonl").write_text("{}\n")
    assert trace.keep(state).startswith(f"The trace can't be kept in {tmp_path / 'home'}/ollama-guard/demo: ")
