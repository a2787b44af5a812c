"""The environment file means the same to systemd and to a shell, and is never half there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ollama_guard.core.runtime import ENVIRONMENT_KEYS
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.environment import EnvironmentFile

LINES = (("OLLAMA_MAX_LOADED_MODELS", "1"), ("OLLAMA_KEEP_ALIVE", "30s"), ("LLAMA_ARG_CACHE_RAM", "256"))


def test_it_holds_exactly_the_given_lines_and_everybody_may_read_them(tmp_path: Path) -> None:
    file = EnvironmentFile(tmp_path)
    file.write(LINES)
    file.write(LINES[:2])
    lines = [line for line in file.path.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["OLLAMA_MAX_LOADED_MODELS=1", "OLLAMA_KEEP_ALIVE=30s"]
    assert file.read() == dict(LINES[:2])
    assert file.path.stat().st_mode & 0o777 == 0o644
    assert file.path.parent.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in file.path.parent.iterdir()] == ["ollama.env"]


def test_a_shell_that_sources_it_gets_the_same_values(tmp_path: Path) -> None:
    file = EnvironmentFile(tmp_path)
    file.write(LINES)
    script = f'set -a; . "{file.path}"; env'
    done = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    assert {f"{key}={value}" for key, value in LINES} <= set(done.stdout.splitlines())


@pytest.mark.parametrize(
    "value", ["1\nLD_PRELOAD=/x", "a b", "$(id)", "`id`", "a'b", 'a"b', "a\\b", "", "x" * 201, "ä"]
)
def test_a_value_that_a_shell_or_systemd_would_read_otherwise_is_refused_and_the_old_file_stands(
    tmp_path: Path, value: str
) -> None:
    file = EnvironmentFile(tmp_path)
    file.write(LINES)
    with pytest.raises(RuntimeFailed) as caught:
        file.write((("OLLAMA_KEEP_ALIVE", value),))
    assert caught.value.kind == "refused"
    assert file.read() == dict(LINES)


@pytest.mark.parametrize(
    "key", ["LD_PRELOAD", "OLLAMA_HOST", "OLLAMA_MODELS", "PATH", "OLLAMA_KEEP_ALIVE=1\nX"]
)
def test_only_the_allowed_keys_may_stand_there(tmp_path: Path, key: str) -> None:
    with pytest.raises(RuntimeFailed) as caught:
        EnvironmentFile(tmp_path).write(((key, "1"),))
    assert caught.value.kind == "refused"
    assert key not in ENVIRONMENT_KEYS


def test_emptying_takes_every_line_back_and_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    file = EnvironmentFile(tmp_path)
    assert not file.empty()
    assert not file.path.exists()
    file.write(LINES)
    assert file.empty()
    assert file.read() == {}
    assert not file.empty()


def test_the_same_lines_are_not_written_again(tmp_path: Path) -> None:
    file = EnvironmentFile(tmp_path)
    file.write(LINES)
    before = file.path.stat()
    file.write(LINES)
    assert file.path.stat().st_ino == before.st_ino


def test_a_folder_that_can_t_be_made_is_denied_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("in the way")
    with pytest.raises(RuntimeFailed) as caught:
        EnvironmentFile(tmp_path).write(LINES)
    assert caught.value.kind == "denied"
    assert os.strerror(20) in str(caught.value) or os.strerror(17) in str(caught.value)


def test_what_an_earlier_boot_wrote_is_told_apart(tmp_path: Path) -> None:
    EnvironmentFile(tmp_path, "the boot before").write(LINES)
    file = EnvironmentFile(tmp_path, "this boot")
    assert file.left() == dict(LINES)
    file.write(LINES)
    assert file.left() == {}
    assert file.read() == dict(LINES)


def test_a_file_that_names_no_boot_is_an_earlier_ones(tmp_path: Path) -> None:
    file = EnvironmentFile(tmp_path)
    assert file.left() == {}
    file.path.parent.mkdir()
    file.path.write_text("OLLAMA_KEEP_ALIVE=30s\n")
    assert file.left() == {"OLLAMA_KEEP_ALIVE": "30s"}
