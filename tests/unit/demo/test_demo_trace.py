from pathlib import Path

import pytest

from ollama_guard.demo import trace


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guard's state directory; what is kept goes below ``tmp_path / "home"``."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    (tmp_path / "state" / "traces").mkdir(parents=True)
    return tmp_path / "state"


def test_a_trace_is_kept_and_the_sentence_says_where(state: Path, tmp_path: Path) -> None:
    (state / "traces" / "a.jsonl").write_text("{}\n")
    said = trace.keep(state)
    kept = tmp_path / "home" / "ollama-guard" / "demo" / "a.jsonl"
    assert said == f"Every decision can be replayed: ollama-guard replay {kept}"
    assert kept.read_text() == "{}\n"


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
