"""What is written for people agrees with the code."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_guard.settings.compiler import compile_text

ROOT = Path(__file__).parents[2]
MAN_PAGES = sorted((ROOT / "docs" / "man").iterdir())
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]


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


def anchors(document: Path) -> set[str]:
    """The headings as a link names them."""
    heads = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_examples_of_a_configuration_are_right() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    page = (ROOT / "docs" / "man" / "ollama-guard.toml.5").read_text(encoding="utf-8")
    examples += re.findall(r"^\.EX\n(\[.*?)^\.EE$", page, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        compile_text(example, "the example")


def test_every_test_that_the_fake_s_facts_name_is_there() -> None:
    text = (ROOT / "docs" / "fake-ollama.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)::(\w+)`", text)) - {("file", "name")}
    there = {
        (path.stem.removeprefix("test_fake_ollama_"), name)
        for path in (ROOT / "tests" / "integration").glob("test_fake_ollama_*.py")
        for name in re.findall(r"^def test_(\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 60
    assert named <= there


def test_the_architecture_names_every_module_of_the_brain() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    brain = text.partition("## The brain")[2].partition("\n## ")[0]
    named = {
        word
        for row in re.findall(r"^\| (`.*?) \|", brain, re.MULTILINE)
        for word in re.findall("`(.*?)`", row)
    }
    modules = {path.stem for path in (ROOT / "src" / "ollama_guard" / "core").glob("[!_]*.py")}
    assert named == modules
