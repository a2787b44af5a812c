"""What an installation is made of, staged into a folder as packagers do."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.sources import ROOT, copy_of_the_sources, wheels_of_this_environment
from ollama_guard.cli.client import GROUPS
from ollama_guard.core.protection import ENTRYPOINT

PACKAGING = ROOT / "packaging"
SCRIPTS = sorted(
    path for path in PACKAGING.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
)


def tree(root: Path) -> set[str]:
    """Every file and link below a folder."""
    return {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_symlink() or path.is_file()}


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Runs `packaging/files VERB` into a folder, from a copy that has completions (which `make` makes)."""
    source = tmp_path / "source"
    copy_of_the_sources(source)
    staged = tmp_path / "staged"

    def run(verb: str, prefix: str = "/usr") -> Path:
        argv = ["sh", str(source / "packaging" / "files"), verb, str(staged), prefix]
        subprocess.run(argv, check=True, timeout=60)
        return staged

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(PACKAGING)))
def test_each_script_is_a_posix_shells(path: Path) -> None:
    if (dash := shutil.which("dash")) is None:
        pytest.skip("dash is not installed")
    subprocess.run([dash, "-n", str(path)], check=True, timeout=20)
    assert os.access(path, os.X_OK)


def test_everything_lies_where_the_system_looks(files: Callable[..., Path]) -> None:
    found = tree(files("install"))
    assert {
        "/etc/ollama-guard/ollama-guard.toml",
        "/usr/bin/ollama-guard",
        "/usr/lib/systemd/system/ollama-guard.service",
        "/usr/lib/systemd/system/ollamaguard.slice",
        "/usr/lib/sysusers.d/ollama-guard.conf",
        "/usr/lib/tmpfiles.d/ollama-guard.conf",
        "/usr/share/polkit-1/rules.d/50-ollama-guard.rules",
        "/usr/share/man/man8/ollama-guard.8",
        "/usr/share/ollama-guard/ollama-guard-entrypoint",
        "/usr/share/ollama-guard/ollama-guard.toml",
        "/usr/share/ollama-guard/ollama-health",
    } <= found
    assert {
        f"/usr/share/ollama-guard/drop-ins/{p.name}" for p in (ROOT / "systemd/drop-ins").iterdir()
    } <= found


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_the_unit_starts_the_program_that_was_installed(files: Callable[..., Path], prefix: str) -> None:
    staged = files("install", prefix)
    unit = (staged / f"{prefix[1:]}/lib/systemd/system/ollama-guard.service").read_text(encoding="utf-8")
    program = re.search(r"^ExecStart=(\S+) run$", unit, re.MULTILINE)
    assert program
    link = staged / program[1][1:]
    assert str(link.readlink()) == "/opt/ollama-guard/bin/ollama-guard"


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_the_owners_file_outlives_everything_and_nothing_else_does(
    files: Callable[..., Path], prefix: str
) -> None:
    mine = files("install", prefix) / "etc/ollama-guard/ollama-guard.toml"
    mine.write_text("# mine\n", encoding="utf-8")
    files("install", prefix)
    assert mine.read_text(encoding="utf-8") == "# mine\n"
    assert tree(files("remove", prefix)) == {"/etc/ollama-guard/ollama-guard.toml"}


def test_the_scripts_lie_where_a_container_mounts_them_from_whatever_the_prefix(
    files: Callable[..., Path],
) -> None:
    assert os.access(files("install", "/usr/local") / ENTRYPOINT[1:], os.X_OK)


@pytest.mark.parametrize(
    ("dpkg", "folder"), [(True, "vendor-completions"), (False, "site-functions")], ids=["Debian", "others"]
)
def test_each_distributions_zsh_finds_the_completion(
    files: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dpkg: bool,  # noqa: FBT001
    folder: str,
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "install", "sed", "mkdir", "ln", "rm", "rmdir"):
        (programs / name).symlink_to(shutil.which(name) or "")
    if dpkg:
        (programs / "dpkg").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(programs))
    assert f"/usr/share/zsh/{folder}/_ollama-guard" in tree(files("install"))
    assert tree(files("remove")) == {"/etc/ollama-guard/ollama-guard.toml"}


def test_users_and_folders_are_made_for_whoever_the_code_names() -> None:
    users = (PACKAGING / "system/sysusers.conf").read_text(encoding="utf-8")
    folders = (PACKAGING / "system/tmpfiles.conf").read_text(encoding="utf-8")
    for group in GROUPS.values():
        assert re.search(rf"^[ug] {group} ", users, re.MULTILINE)
    assert re.search(r"^d /run/ollama-guard/\.ollama-guard-admin 2700 ", folders, re.MULTILINE)


def test_polkit_gives_exactly_these_verbs_on_one_unit_to_one_user() -> None:
    """The rule itself is tried in the virtual machine (tests/vm)."""
    rule = (PACKAGING / "system/polkit.rules").read_text(encoding="utf-8")
    verbs = re.search(r"var verbs = \[(.*?)\];", rule)
    assert verbs
    given = ["stop", "start", "kill", "set-property", "reset-failed"]
    assert re.findall(r'"([a-z-]+)"', verbs[1]) == given
    assert rule.count("polkit.Result.YES") == 1
    for condition in ('subject.user == "ollama-guard"', 'action.lookup("unit") == "ollama.service"'):
        assert condition in rule


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Wheels made of what this environment already has, and a foreign one that must be left alone."""
    folder = tmp_path / "wheels"
    wheels_of_this_environment(folder)
    return folder


def make_venv(wheels: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """`make-venv` with this Python, staged below `root`."""
    return subprocess.run(
        ["sh", str(PACKAGING / "make-venv"), str(wheels), "/opt/ollama-guard", str(root)],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_a_staged_environment_knows_itself_by_where_it_will_be(wheels: Path, tmp_path: Path) -> None:
    done = make_venv(wheels, tmp_path)
    assert done.returncode == 0, done.stderr
    venv = tmp_path / "opt/ollama-guard"
    assert sorted(p.name for p in (tmp_path / "opt").iterdir()) == ["ollama-guard"]
    assert not list(venv.rglob("of_another_machine.py"))
    program = (venv / "bin/ollama-guard").read_text(encoding="utf-8")
    assert program.startswith("#!/opt/ollama-guard/bin/python -I\n")
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in venv.rglob("main*.pyc"))
    argv = [venv / "bin/python", "-I", venv / "bin/ollama-guard"]
    shown = subprocess.run(
        [*argv, "check-config", ROOT / "config/ollama-guard.toml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr


def test_wheels_that_make_no_guard_leave_the_old_environment_alone(tmp_path: Path) -> None:
    old = tmp_path / "opt/ollama-guard/bin"
    old.mkdir(parents=True)
    (tmp_path / "none").mkdir()
    done = make_venv(tmp_path / "none", tmp_path)
    assert done.returncode == 1
    assert "don't make a guard" in done.stderr
    assert old.is_dir()
    assert not (tmp_path / "opt/ollama-guard.new").exists()
