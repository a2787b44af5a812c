"""What the owner's files say of Ollama's environment, beside what its process has."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_guard.cli.bounded import MOST_BYTES, read_within
from ollama_guard.cli.written_elsewhere import Unread, drift_of_compose, drift_of_unit
from ollama_guard.core.machine import ComposeFacts, Drift, UnitFacts

GUARDS = Path("/var/lib/ollama-guard/env/ollama.env")
RUNNING = {"OLLAMA_KEEP_ALIVE": "5m", "OLLAMA_NUM_PARALLEL": "1", "OLLAMA_DEBUG": "true"}


def put(root: Path, path: str, text: str) -> None:
    file = root / path.removeprefix("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def drift(root: Path, *texts: str) -> tuple[Drift, ...]:
    """What compose files of these texts say otherwise than `RUNNING`."""
    files = tuple(f"/srv/llm/{number}.yml" for number, _ in enumerate(texts))
    for file, text in zip(files, texts, strict=True):
        put(root, file, text)
    return drift_of_compose(ComposeFacts("/srv/llm", files, "llm"), RUNNING, root, GUARDS)


def services(environment: str) -> str:
    other = "  other: {environment: {OLLAMA_KEEP_ALIVE: 1h}}\n"
    return f"services:\n{other}  llm:\n    environment:\n{environment}"


@pytest.mark.parametrize(
    "environment",
    [
        "      OLLAMA_KEEP_ALIVE: 5m\n      OLLAMA_NUM_PARALLEL: 1\n      OLLAMA_DEBUG: true\n",
        "      - OLLAMA_KEEP_ALIVE=5m\n      - OLLAMA_NUM_PARALLEL=1\n      - OLLAMA_HOST\n      - PATH=/x\n",
        '      OLLAMA_KEEP_ALIVE: "${KEEP:-1h}"\n      OLLAMA_HOST:\n      SECRET: other\n',
        "      []\n",
    ],
)
def test_a_compose_file_that_says_what_is_in_force_is_no_drift(tmp_path: Path, environment: str) -> None:
    assert drift(tmp_path, services(environment)) == ()


def test_what_it_says_otherwise_is_told_with_both_values(tmp_path: Path) -> None:
    text = services(
        "      OLLAMA_KEEP_ALIVE: -1\n      OLLAMA_MAX_LOADED_MODELS: '2'\n      OLLAMA_DEBUG: yes\n"
    )
    assert drift(tmp_path, text) == (
        Drift("OLLAMA_DEBUG", "yes", "true"),
        Drift("OLLAMA_KEEP_ALIVE", "-1", "5m"),
        Drift("OLLAMA_MAX_LOADED_MODELS", "2", ""),
    )


def test_a_later_file_and_a_merge_win(tmp_path: Path) -> None:
    shared = "x-env: &env {OLLAMA_KEEP_ALIVE: 1h, OLLAMA_NUM_PARALLEL: 1}\n"
    first = shared + services("      <<: *env\n")
    assert drift(tmp_path, first) == (Drift("OLLAMA_KEEP_ALIVE", "1h", "5m"),)
    assert drift(tmp_path, first, services("      - OLLAMA_KEEP_ALIVE=5m\n")) == ()


def test_what_waits_for_the_next_start_on_purpose_is_no_drift(tmp_path: Path) -> None:
    put(tmp_path, str(GUARDS), "# the guard's\nOLLAMA_KEEP_ALIVE=30s\n")
    assert drift(tmp_path, services("      OLLAMA_KEEP_ALIVE: 1h\n")) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("services:\n  llm: [\n", "/srv/llm/0.yml, line 3: it is no YAML that can be read"),
        ("services:\n  llm: {extends: {service: base}}\n", "the service llm extends another"),
        ("services:\n  llm: {environment: 7}\n", "environment is neither a table nor a list"),
        ("[" * 5000, "it is no YAML that can be read"),
    ],
)
def test_a_compose_file_that_can_not_be_understood_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Unread, match=says):
        drift(tmp_path, text)


def test_a_compose_file_that_is_gone_is_said(tmp_path: Path) -> None:
    facts = ComposeFacts("/srv/llm", ("/srv/llm/gone.yml",), "llm")
    with pytest.raises(Unread, match=r"gone\.yml: No such file or directory"):
        drift_of_compose(facts, RUNNING, tmp_path, GUARDS)


def test_a_units_lines_are_compared_but_for_what_its_files_or_specifiers_set(tmp_path: Path) -> None:
    put(tmp_path, "/etc/default/ollama", "OLLAMA_NUM_PARALLEL=1\n")
    environment = {
        "OLLAMA_KEEP_ALIVE": "30s",
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_MODELS": "%h/models",
        "PATH": "/x",
    }
    unit = UnitFacts("ollama.service", environment=environment, environment_files=("/etc/default/ollama",))
    assert drift_of_unit(unit, RUNNING, tmp_path, GUARDS) == (Drift("OLLAMA_KEEP_ALIVE", "30s", "5m"),)


def test_a_units_files_that_only_systemd_can_find_are_said(tmp_path: Path) -> None:
    unit = UnitFacts(
        "ollama.service", environment={"OLLAMA_KEEP_ALIVE": "1h"}, environment_files=("/etc/%i.env",)
    )
    with pytest.raises(Unread, match="systemd's to say"):
        drift_of_unit(unit, RUNNING, tmp_path, GUARDS)


def test_a_file_without_an_end_is_not_read_to_it(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_within(tmp_path / "large")
