"""The environment of a server, read from its process or else from what it declares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollama_guard.cli.survey import declared, environment_of
from ollama_guard.core.machine import ContainerFacts, UnitFacts

LINES = {"OLLAMA_NUM_PARALLEL": "4", "SECRET": "x"}
OURS = {"OLLAMA_NUM_PARALLEL": "4"}
GUARDS = "/var/lib/ollama-guard/env/ollama.env"


def test_of_a_process_environment_only_what_is_ollamas_is_kept(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/environ").write_bytes(b"OLLAMA_HOST=a=b\0SECRET=x\0LLAMA_ARG_CACHE_RAM=\xff\0broken\0")
    assert environment_of(7, str(tmp_path)) == {"OLLAMA_HOST": "a=b", "LLAMA_ARG_CACHE_RAM": "\\xff"}
    with pytest.raises(FileNotFoundError):
        environment_of(8, str(tmp_path))


def test_a_process_that_is_stuck_holds_nobody_up(tmp_path: Path) -> None:
    """Its environment lies in its memory: who reads it waits, as here for a pipe's other end."""
    (tmp_path / "7").mkdir()
    os.mkfifo(tmp_path / "7/environ")
    with pytest.raises(TimeoutError, match="could not be read within 2 s"):
        environment_of(7, str(tmp_path))


def test_what_a_unit_declares_counts_unless_an_environment_file_may_say_otherwise() -> None:
    """The guard's own holds constraints, and only for a while."""
    assert declared(UnitFacts("a.service", environment=LINES), None) == OURS
    assert declared(UnitFacts("a.service", environment=LINES, environment_files=(GUARDS,)), None) == OURS
    files = ("/etc/default/ollama", GUARDS)
    assert declared(UnitFacts("a.service", environment=LINES, environment_files=files), None) is None


def test_what_a_container_declares_is_all_of_it() -> None:
    assert declared(None, ContainerFacts("id", "name", environment=LINES)) == OURS
    assert declared(None, None) is None
