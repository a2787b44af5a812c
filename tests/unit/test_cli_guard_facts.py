"""What `doctor` sees of the guard is what the guard itself would see."""

import os
import pwd
from pathlib import Path

import pytest

from ollama_guard.cli.guard_facts import unreadable_by

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")


@pytest.fixture
def nobody() -> str:
    """A user who is nobody's owner."""
    try:
        return pwd.getpwuid(65534).pw_name
    except KeyError:
        pytest.skip("there is no such user")


def test_a_file_that_root_alone_may_read_is_unreadable_for_another(tmp_path: Path, nobody: str) -> None:
    file = tmp_path / "ollama-guard.toml"
    file.write_text("")
    file.chmod(0o600)
    assert unreadable_by(nobody, file)
    file.chmod(0o644)
    tmp_path.chmod(0o700)
    assert unreadable_by(nobody, file), "the folders above count"
    assert not unreadable_by("root", file)
    assert not unreadable_by(nobody, Path("/etc/passwd"))


def test_of_a_user_or_a_file_that_is_not_there_nothing_is_said(tmp_path: Path, nobody: str) -> None:
    assert not unreadable_by("no-such-user", tmp_path)
    assert not unreadable_by(nobody, tmp_path / "none")
