"""The copies that a bad edit falls back to, and the compiler as a program."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ollama_guard.core.codec import from_plain
from ollama_guard.core.policy import CapPolicy, Policy
from ollama_guard.errors import ConfigError
from ollama_guard.settings.compiler import compile_text
from ollama_guard.settings.deadline import within
from ollama_guard.settings.last_good import keep_last_good, load_last_good

TEXT = "[cap]\nsoft_max = 3\n"


def test_what_was_kept_is_loaded(tmp_path: Path) -> None:
    keep_last_good(tmp_path, TEXT, compile_text(TEXT, "x"))
    assert load_last_good(tmp_path) == Policy(cap=CapPolicy(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-good.toml", "policy.json"]
    assert (tmp_path / "last-good.toml").read_text() == TEXT


def test_a_compiled_copy_of_another_version_is_compiled_again_from_the_text(tmp_path: Path) -> None:
    keep_last_good(tmp_path, TEXT, compile_text(TEXT, "x"))
    (tmp_path / "policy.json").write_text('{"a_key_of_tomorrow": 1}')
    assert load_last_good(tmp_path) == Policy(cap=CapPolicy(3))


@pytest.mark.parametrize("broken", ["", "{", "[" * 100_000, "null", "\0"])
def test_broken_copies_are_as_good_as_none(tmp_path: Path, broken: str) -> None:
    (tmp_path / "policy.json").write_text(broken)
    (tmp_path / "last-good.toml").write_text("= broken")
    assert load_last_good(tmp_path) is None
    assert load_last_good(tmp_path / "nowhere") is None


def test_keeping_the_same_again_writes_nothing(tmp_path: Path) -> None:
    keep_last_good(tmp_path, TEXT, compile_text(TEXT, "x"))
    before = [(p.name, p.stat().st_ino) for p in sorted(tmp_path.iterdir())]
    keep_last_good(tmp_path, TEXT, compile_text(TEXT, "x"))
    assert [(p.name, p.stat().st_ino) for p in sorted(tmp_path.iterdir())] == before


def test_a_full_disk_leaves_the_old_copy_whole(tmp_path: Path) -> None:
    """A file-size limit of the process stands in for the full disk."""
    keep_last_good(tmp_path, TEXT, compile_text(TEXT, "x"))

    def keep_without_room() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))
        keep_last_good(tmp_path, "[cap]\nsoft_max = 4\n", Policy(cap=CapPolicy(4)))
        return "kept"

    with pytest.raises(OSError, match="File too large"):
        within(10, keep_without_room)
    assert load_last_good(tmp_path) == Policy(cap=CapPolicy(3))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_function_that_hangs_is_left_behind_at_the_deadline() -> None:
    read_end, write_end = os.pipe()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.1, lambda: str(os.read(read_end, 1)))
    assert time.monotonic() - began < 5
    os.close(read_end)
    os.close(write_end)


def test_a_function_that_fails_tells_why() -> None:
    def problem() -> str:
        raise ConfigError(["a", "b"])

    with pytest.raises(ConfigError) as caught:
        within(10, problem)
    assert caught.value.problems == ["a", "b"]
    with pytest.raises(FileNotFoundError):
        within(10, lambda: Path("/nowhere/at/all").read_text())
    with pytest.raises(OSError, match="without an answer"):
        within(10, lambda: str(1 // 0))
    assert within(10, lambda: "x" * 300_000) == "x" * 300_000


def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", "-m", "ollama_guard.settings", "compile", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_prints_the_policy_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(TEXT)
    result = compiled("--config", str(path), "--state-dir", str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    assert from_plain(Policy, json.loads(result.stdout)) == Policy(cap=CapPolicy(3))
    assert load_last_good(tmp_path) == Policy(cap=CapPolicy(3))


def test_the_program_tells_what_it_ignores_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[playbook.freeze]\nmax_vram = 1\n")
    result = compiled("--config", str(path))
    assert result.returncode == 0
    assert from_plain(Policy, json.loads(result.stdout)) == Policy()
    assert result.stderr.startswith(f"{path}, line 2: playbook.freeze.max_vram is ignored")


def test_the_program_tells_every_problem_and_keeps_the_last_good(tmp_path: Path) -> None:
    keep_last_good(tmp_path, TEXT, compile_text(TEXT, "x"))
    path = tmp_path / "my.toml"
    path.write_text("[cap]\nsoft_max = 0\n[nope]\n")
    result = compiled("--config", str(path), "--state-dir", str(tmp_path))
    assert (result.returncode, result.stdout) == (78, "")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        f"{path}, line 2",
        f"{path}, line 3",
    ]
    assert load_last_good(tmp_path) == Policy(cap=CapPolicy(3))


def test_the_program_prints_the_policy_even_where_it_cannot_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(TEXT)
    result = compiled("--config", str(path), "--state-dir", str(tmp_path / "my.toml"))
    assert result.returncode == 0
    assert json.loads(result.stdout)["cap"]["soft_max"] == 3
    assert "can't be kept" in result.stderr
