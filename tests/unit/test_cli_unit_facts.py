"""What is known of the unit by which a server is run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from beds.nobody import become_nobody
from ollama_guard.cli.unit_facts import read_unit, unit_facts
from ollama_guard.core.model import ServerReading
from ollama_guard.settings.deadline import within
from ollama_guard.testing.systemd import FakeSystemd, FakeUnit

NAME = "ollama.service"
SERVER = ServerReading(50, 1, 0, f"/system.slice/{NAME}", "proof")
UNIT = "usr/lib/systemd/system/ollama.service"
OWN = "etc/systemd/system/ollama.service.d/10-own.conf"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[FakeSystemd]:
    """One that runs the server's unit."""
    with FakeSystemd(tmp_path / "bus", FakeUnit(NAME, 50)) as systemd:
        yield systemd


def put(root: Path, path: str, *lines: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(("[Service]", *lines, "")))
    return file


def test_what_is_written_for_all_services_counts_and_what_is_for_one_wins(tmp_path: Path) -> None:
    """By the names of the files, and a file for one unit hides one of the same name for all."""
    put(tmp_path, UNIT, "Environment=A=1")
    put(tmp_path, "etc/systemd/system/service.d/10-all.conf", "OOMPolicy=continue", "Environment=A=2")
    put(tmp_path, "etc/systemd/system/service.d/10-own.conf", "OOMPolicy=kill")
    unit = read_unit(NAME, tmp_path)
    assert (unit.oom_policy, dict(unit.environment)) == ("kill", {"A": "2"})
    put(tmp_path, OWN, "Environment=A=3")
    unit = read_unit(NAME, tmp_path)
    assert (unit.oom_policy, dict(unit.environment)) == ("continue", {"A": "3"})


def test_a_link_to_nowhere_hides_the_file_of_its_name(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/systemd/system/ollama.service.d/10-own.conf", "OOMPolicy=continue")
    assert read_unit(NAME, tmp_path).oom_policy == "continue"
    put(tmp_path, OWN).unlink()
    (tmp_path / OWN).symlink_to("/dev/null")
    assert read_unit(NAME, tmp_path).oom_policy == ""


@pytest.mark.parametrize(
    ("told", "written", "known"),
    [("continue", "", "continue"), ("stop", "continue", "stop"), ("", "continue", "continue"), ("", "", "")],
)
def test_systemds_own_word_on_what_an_oom_kill_does_wins(
    tmp_path: Path, systemd: FakeSystemd, told: str, written: str, known: str
) -> None:
    """Its default may be another on this machine, and a line that was not taken over yet is not in force."""
    put(tmp_path, UNIT, *([f"OOMPolicy={written}"] if written else []))
    systemd.units[NAME].oom_policy = told
    unknown: dict[str, str] = {}
    unit = unit_facts(NAME, SERVER, tmp_path, unknown, str(systemd.path))
    assert unit is not None
    assert (unit.oom_policy, unknown) == (known, {})


def test_where_systemd_can_not_be_asked_the_files_count(tmp_path: Path) -> None:
    put(tmp_path, UNIT, "OOMPolicy=continue")
    unit = unit_facts(NAME, SERVER, tmp_path, {}, str(tmp_path / "no-bus"))
    assert unit is not None
    assert unit.oom_policy == "continue"


def test_a_users_own_unit_is_not_looked_for_among_the_systems(tmp_path: Path) -> None:
    put(tmp_path, UNIT, "OOMPolicy=stop")
    server = replace(SERVER, cgroup=f"/user.slice/user-1000.slice/user@1000.service/app.slice/{NAME}")
    unknown: dict[str, str] = {}
    assert unit_facts(NAME, server, tmp_path, unknown) is None
    assert unknown == {"unit": "ollama.service is of a user's own systemd, whose files are not looked at"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")
def test_a_unit_of_which_a_part_may_not_be_read_is_not_judged(everybodys: Path) -> None:
    """Whoever can't see a drop-in can't say what is missing."""
    put(everybodys, UNIT)
    own = put(everybodys, OWN, "OOMPolicy=continue")

    def as_nobody() -> str:
        become_nobody()
        unknown: dict[str, str] = {}
        assert unit_facts(NAME, SERVER, everybodys, unknown, str(everybodys / "no-bus")) is None
        return json.dumps(unknown)

    own.chmod(0o600)
    said = "Permission denied; what the files of ollama.service say is not judged"
    assert json.loads(within(20, as_nobody)) == {"unit": f"{own}: {said}"}
    own.parent.chmod(0o700)
    assert json.loads(within(20, as_nobody)) == {"unit": f"{own.parent}: {said}"}
