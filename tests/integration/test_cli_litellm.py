"""`litellm render` and `litellm check`, as a person runs them; no guard, no proxy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from beds.guard import PROGRAM

TIERS = """
[ollama]
url = "http://127.0.0.1:11500"
[[tiers]]
name = "light"
model = "smollm:135m"
[[tiers]]
name = "own"
model = "tinyllama:1.1b"
"""


def ran(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *map(str, argv)], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A guard's file with two tiers."""
    path = tmp_path / "guard.toml"
    path.write_text(TIERS)
    return path


def test_what_is_rendered_is_good_and_is_written_where_nothing_was(config: Path, tmp_path: Path) -> None:
    """A second time the file that is there stays, and the sentence says how to compare."""
    printed = ran("litellm", "render", "--config", config, "--name", "own=clever")
    rows = yaml.safe_load(printed.stdout)["model_list"]
    assert [row["model_name"] for row in rows] == ["gpt-3.5-turbo-light", "clever"]
    assert {row["litellm_params"]["api_base"] for row in rows} == {"http://127.0.0.1:11500"}
    target = tmp_path / "litellm.yaml"
    written = ran("litellm", "render", "--config", config, "-o", target)
    assert (written.returncode, written.stderr) == (0, "")
    checked = ran("litellm", "check", target)
    assert checked.returncode == 0
    assert "good; LiteLLM" in checked.stdout
    before = target.read_text()
    again = ran("litellm", "render", "--config", config, "--no-callback", "-o", target)
    assert again.returncode == 1
    assert "stays as it is" in again.stderr
    assert target.read_text() == before


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--name", "light"), 2, "TIER=NAME"),
        (("--ollama-url", "ollama:11434"), 2, "does not begin with http://"),
        (("--name", "lite=x"), 1, "there is no tier 'lite'"),
        (("-o", "/nowhere/litellm.yaml"), 1, "can't be written: No such file or directory"),
    ],
)
def test_a_wrong_option_is_a_sentence(
    config: Path, options: tuple[str, ...], code: int, sentence: str
) -> None:
    done = ran("litellm", "render", "--config", config, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr


def test_without_tiers_there_is_nothing_to_render(tmp_path: Path) -> None:
    empty = tmp_path / "guard.toml"
    empty.write_text("")
    done = ran("litellm", "render", "--config", empty)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there are no tiers" in done.stderr


def test_ignored_keys_are_told_with_their_lines_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "litellm.yaml"
    path.write_text("model_list: []\nrouter_settings:\n  max_parallel_requests: 5\n")
    told = ran("litellm", "check", path)
    assert told.returncode == 1
    assert told.stdout.startswith(f"{path}, line 3: LiteLLM ignores 'max_parallel_requests'")
    (remark,) = json.loads(ran("litellm", "check", path, "--json").stdout)["remarks"]
    assert (remark["line"], remark["key"], remark["ignored"]) == (3, "max_parallel_requests", True)


def test_a_broken_file_is_told_with_its_line_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "litellm.yaml"
    path.write_text("model_list:\n  - model_name: a\n   litellm_params: b\n")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    done = ran("litellm", "check", path)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{path}, line 3: this is no YAML" in done.stderr
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_file_that_can_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        done = ran("litellm", "check", path)
        assert done.returncode == 78
        assert f"{path}: it can't be read: {why}" in done.stderr
