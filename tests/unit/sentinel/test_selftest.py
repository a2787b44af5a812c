"""What the self-test says of this machine, from files that stand for its own."""

import os
from pathlib import Path

import pytest

from ollama_guard.sentinel import selftest
from unit.sentinel.rights import without_rights


def mounted(folder: Path, kind: str, *, device: int | None = None) -> Path:
    """A mountinfo in which ``folder`` is on a file system of this type, beside two others."""
    number = folder.stat().st_dev if device is None else device
    text = (
        "22 27 0:21 / /proc rw - proc proc rw\n"
        f"31 23 {os.major(number)}:{os.minor(number)} / /run rw,nosuid shared:12 - {kind} {kind} rw\n"
        "garbage\n"
    )
    path = folder / "mountinfo"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_runtime_directory_in_memory_is_well(tmp_path: Path, kind: str) -> None:
    said = selftest.runtime_dir(tmp_path, mounted(tmp_path, kind))
    assert said.fields == {"subject": "runtime_dir", "may": True}


def test_a_runtime_directory_on_a_disk_is_told_with_the_way_out(tmp_path: Path) -> None:
    """A write into a mapped file of a disk can wait for it, between a decision and the kill."""
    said = selftest.runtime_dir(tmp_path, mounted(tmp_path, "ext4"))
    assert said.fields["may"] is False
    assert f"{tmp_path} is on a file system of type ext4" in said.message
    assert "tmpfs" in said.message
    unlisted = selftest.runtime_dir(tmp_path, mounted(tmp_path, "tmpfs", device=os.makedev(0, 4095)))
    assert "is on a disk" in unlisted.message


def test_a_mountinfo_that_can_not_be_read_is_no_failure(tmp_path: Path) -> None:
    said = selftest.runtime_dir(tmp_path, tmp_path / "none")
    assert (said.fields["may"], "can't be told" in said.message) == (False, True)


def test_processes_that_may_not_be_looked_at_are_told_and_end_no_start(tmp_path: Path) -> None:
    """hidepid=1 answers EPERM, for which Path.exists raises up to Python 3.13."""
    hidden = tmp_path / "proc" / "1"
    hidden.mkdir(parents=True)
    (hidden / "stat").write_text("1 (init) S 0\n")
    assert selftest.process_view(hidden / "stat").fields["may"] is True
    hidden.chmod(0)
    with without_rights():
        said = selftest.process_view(hidden / "stat")
    hidden.chmod(0o700)
    assert said.fields == {"subject": "proc", "may": False}
    assert "hidepid" in said.message
