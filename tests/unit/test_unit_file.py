"""The systemd unit: every line has its why, and systemd itself finds nothing wrong offline."""

import configparser
import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
UNIT = FOLDER / "ollama-guard.service"
SLICE = FOLDER / "ollamaguard.slice"
DROP_INS = sorted((FOLDER / "drop-ins").glob("*.conf"))
INSTALL = FOLDER.parent / "docs" / "install.md"
MOST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def directives(path: Path) -> dict[str, list[str]]:
    """Each directive with its values in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("path", [UNIT, *DROP_INS], ids=lambda path: path.name)
def test_every_directive_has_its_why_above_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    self_explaining = ("Description", "Group")
    for above, line in pairwise(lines):
        if line and line[0] not in "#[" and line.partition("=")[0] not in self_explaining:
            assert above.startswith("# "), line


def test_the_files_are_well_formed() -> None:
    for path in (UNIT, SLICE, *DROP_INS):
        parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        parser.read(path, encoding="utf-8")
        assert ("Service" if path in DROP_INS else "Unit") in parser


def test_what_the_guard_lives_by_is_there() -> None:
    unit = directives(UNIT)
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "Restart": "always",
        "StartLimitIntervalSec": "0",
        "WatchdogSignal": "SIGKILL",
        "LimitCORE": "0",
        "LimitMEMLOCK": "infinity",
        "KillMode": "mixed",
        "RuntimeDirectory": "ollama-guard",
        "RuntimeDirectoryPreserve": "yes",
        "StateDirectory": "ollama-guard",
        "AmbientCapabilities": "CAP_KILL",
        "CapabilityBoundingSet": "CAP_KILL",
        "SystemCallErrorNumber": "EPERM",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "Slice": SLICE.name,
        "User": "ollama-guard",
    }
    for key, value in expected.items():
        assert unit[key] == [value]
    assert unit["ExecStart"][0].endswith("/ollama-guard run")
    assert int(unit["WatchdogSec"][0].removesuffix("s")) >= 30
    assert "process_mrelease" in unit["SystemCallFilter"][0]
    assert unit["MemoryMin"] == directives(SLICE)["MemoryMin"]


def test_it_can_see_the_processes_and_the_memory_of_others() -> None:
    unit = directives(UNIT)
    for hiding in ("ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs"):
        assert hiding not in unit


def test_what_reaches_beyond_loopback_names_the_drop_in_that_allows_it() -> None:
    assert directives(UNIT)["IPAddressDeny"] == ["any"]
    shipped = (FOLDER.parent / "config" / "ollama-guard.toml").read_text(encoding="utf-8")
    for key in ("#url = ", "# e.g. webhook = "):
        above = shipped[: shipped.index(key)].rpartition("\n\n")[2].replace("\n# ", " ")
        assert "drop-in network.conf" in above, key


@needs_systemd
def test_systemd_knows_every_directive(tmp_path: Path) -> None:
    """The unit is checked as a copy that starts a program which exists here."""
    copy = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8").replace("/usr/bin/ollama-guard run", "/bin/true")
    copy.write_text(text, encoding="utf-8")
    shutil.copy(SLICE, tmp_path)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    complaints = [line for line in result.stderr.splitlines() if tmp_path.name in line or "ollama" in line]
    assert complaints == []


@needs_systemd
def test_its_exposure_is_small() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    shown = subprocess.run([*argv, str(UNIT)], capture_output=True, text=True, timeout=60, check=False)
    last = shown.stdout.strip().splitlines()[-1]
    assert float(last.split(":")[1].split()[0]) <= MOST_EXPOSURE, shown.stdout
    argv.append("--json=short")
    parts = subprocess.run([*argv, str(UNIT)], capture_output=True, text=True, timeout=60, check=True)
    rights = [
        p["json_field"] for p in json.loads(parts.stdout) if p["exposure"] and "Capability" in p["json_field"]
    ]
    assert rights == ["CapabilityBoundingSet_CAP_KILL"]


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_a_drop_in_says_what_it_adds_what_for_and_how_to_take_it(drop_in: Path) -> None:
    text = drop_in.read_text(encoding="utf-8")
    for head in ("# Exposure: ", "\n# Adds: ", "\n# For: ", "\n# To take it: "):
        assert head in text
    added = directives(drop_in)
    assert added.get("AmbientCapabilities") == added.get("CapabilityBoundingSet")


@needs_systemd
@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_a_drop_in_has_the_score_that_it_says(drop_in: Path, tmp_path: Path) -> None:
    """And that the table for those who install it says."""
    units, more = tmp_path / "usr/lib/systemd/system", tmp_path / "etc/systemd/system/ollama-guard.service.d"
    for folder, files in ((units, (UNIT, SLICE)), (more, (drop_in,))):
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder)
    argv = ["systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "--no-pager", UNIT.name]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    score = shown.stdout.strip().splitlines()[-1].split(":")[1].split()[0]
    first = drop_in.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# Exposure: {score} (the base unit alone: {MOST_EXPOSURE})")
    assert f"| `{drop_in.name}` | {score} |" in INSTALL.read_text(encoding="utf-8")
