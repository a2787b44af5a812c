"""What is written for people agrees with the code."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAN_PAGES = sorted((ROOT / "docs" / "man").iterdir())


def ran(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_made_from_the_code_is_as_the_code_says() -> None:
    """`make docs` writes it anew."""
    found = ran(sys.executable, "-m", "docs.generate", "--check")
    assert found.returncode == 0, f"\n{found.stdout}{found.stderr}"


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda page: page.name)
def test_a_man_page_is_what_formatters_take(page: Path) -> None:
    checks = {"groff": ["-man", "-Tutf8", "-ww", "-z"], "mandoc": ["-T", "lint", "-W", "warning"]}
    able = [program for program in checks if shutil.which(program)]
    if not able:
        pytest.skip("neither groff nor mandoc is installed")
    for program in able:
        found = ran(program, *checks[program], str(page))
        assert (found.returncode, found.stdout + found.stderr) == (0, ""), program


def test_the_man_page_tells_of_every_command() -> None:
    overview = ran(sys.executable, "-c", "from ollama_guard.cli import main; main()", "--help").stdout
    page = (ROOT / "docs" / "man" / "ollama-guard.8").read_text(encoding="utf-8")
    commands = [line.split()[0] for line in overview.partition("Commands:\n")[2].splitlines() if line.strip()]
    assert "run" in commands
    for command in commands:
        assert rf".SS \fB{command}\fR" in page.replace(r"\-", "-")
