"""What a run of the tests says of the tiers that it leaves out, and when being unable is a failure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNABLE = """
from beds import BedUnavailable

def test_that_needs_a_bed(give_up):
    give_up(BedUnavailable("this machine has no such thing"))
"""


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    """A folder of tests under our conftest: one that can't run, and two of heavy tiers."""
    folder = tmp_path / "tests"
    able = "def test_of_it(): pass"
    for tier, text in {"real": UNABLE, "litellm": able, "vm": able}.items():
        (folder / tier).mkdir(parents=True)
        (folder / tier / f"test_in_{tier}.py").write_text(text)
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    return folder


def ran(folder: Path, required: str = "", jobs: int = 0) -> subprocess.CompletedProcess[str]:
    quiet = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "-n", str(jobs)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", str(folder), *quiet],
        env={**os.environ, "OLLAMA_GUARD_REQUIRE": required},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("jobs", [0, 1])
def test_each_tier_that_is_left_out_has_its_line_in_the_summary(tests: Path, jobs: int) -> None:
    """The skipped one with its reason, also from a worker; those that are too heavy with their commands."""
    found = ran(tests, required="docker,smallhost", jobs=jobs)
    assert found.returncode == 0, found.stdout + found.stderr
    said = found.stdout.partition("short test summary")[0].splitlines()
    assert "tier real: some or all tests were left out here, since this machine has no such thing" in said
    for heavy in ("litellm", "vm"):
        (line,) = [line for line in said if line.startswith(f"tier {heavy}: ")]
        assert f"`make test-{heavy}`" in line
    assert "1 skipped in" in found.stdout


def test_a_tier_that_is_required_fails_where_it_is_unable(tests: Path) -> None:
    found = ran(tests, required="docker,real")
    assert found.returncode == 1
    assert (
        "the tier real is required (OLLAMA_GUARD_REQUIRE), but this machine has no such thing" in found.stdout
    )


@pytest.mark.parametrize("heavy", ["litellm", "vm"])
def test_who_names_the_folder_of_a_heavy_tier_gets_it(tests: Path, heavy: str) -> None:
    found = ran(tests / heavy)
    assert "1 passed in" in found.stdout
    assert f"tier {heavy}: " not in found.stdout


@pytest.mark.parametrize("heavy", ["litellm", "vm"])
def test_a_heavy_tier_that_is_required_is_not_left_out(tests: Path, heavy: str) -> None:
    found = ran(tests, required=heavy)
    assert "1 passed, 1 skipped in" in found.stdout
    assert f"tier {heavy}: " not in found.stdout
