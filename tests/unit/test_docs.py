"""What is written for people agrees with the code."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs.generate.__main__ import dated
from docs.generate.markup import UNDATED

from ollama_guard.cli import leftovers, written
from ollama_guard.control.apps import VERBS
from ollama_guard.core.model import Condition, Rung
from ollama_guard.hands import environment, remembered
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


def test_the_man_page_tells_of_every_file_in_the_state_directory() -> None:
    page = (ROOT / "docs" / "man" / "ollama-guard.8").read_text(encoding="utf-8").replace("\\-", "-")
    files = page.partition(".SH FILES")[2].partition(".SH ")[0]
    kept = [
        remembered.LIMITS_NAME, remembered.RUNTIMES_NAME, remembered.STOPPED_NAME, leftovers.BOOK_FILE,
        f"{environment.FOLDER}/{environment.NAME}", "alerts/", "traces/", "footprints.sqlite",
        "last-good.toml", "policy.json", "public/status.json",
    ]  # fmt: skip
    assert [name for name in kept if f"/var/lib/ollama-guard/{name}" not in files] == []
    assert str(written.RECORD) in files


def test_a_man_page_has_the_date_of_its_last_change() -> None:
    made = f'.TH X 8 {UNDATED} "x 1"\nnew\n'
    old = '.TH X 8 2026-01-02 "x 1"\nold\n'
    new = dated(made, old, "2026-03-04")
    assert new == made.replace(UNDATED, "2026-03-04")
    assert dated(made, new, "2026-05-06") == new


def test_who_may_act_is_told_of_every_act() -> None:
    """Whoever adds somebody to the group of `control.sock` reads what that allows."""
    told = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").partition("# everything that acts\n")[2]
    assert set(VERBS) <= set(re.findall("`([a-z]+)", told.partition("\n## ")[0]))


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


def test_the_ladder_is_told_rung_by_rung() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    ladder = text.partition("## The ladder")[2].partition("\n## ")[0]
    rows = " ".join(re.findall(r"^\| (.*?) \|", ladder, re.MULTILINE))
    assert set(re.findall("`(.*?)`", rows)) == {rung.value for rung in Rung}


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
    named = [
        word
        for row in re.findall(r"^\| (`.*?) \|", brain, re.MULTILINE)
        for word in re.findall("`(.*?)`", row)
    ]
    modules = {path.stem for path in (ROOT / "src" / "ollama_guard" / "core").glob("[!_]*.py")}
    assert sorted(named) == sorted(modules), "each once"


def test_the_architecture_names_every_adapter() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `hands/adapters/` \|(.*)\|$", text, re.MULTILINE)
    there = (ROOT / "src" / "ollama_guard" / "hands" / "adapters").glob("[!_]*")
    assert set(re.findall("`(.*?)`", row)) == {path.stem for path in there}


def test_the_architecture_names_every_condition() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `conditions` \|(.*)\|$", text, re.MULTILINE)
    assert set(re.findall("`(.*?)`", row)) == {condition.value for condition in Condition}
