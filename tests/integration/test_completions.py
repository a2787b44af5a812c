"""The completion scripts as `make` writes them for the package, for each shell."""

import os
import shutil
import subprocess
import sys

import pytest

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "import sys; sys.argv[0] = 'ollama-guard'; from ollama_guard.cli import main; main()"


def asked(**environment: str) -> str:
    """What the program answers to a shell."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": os.environ["PATH"], **environment},
    )  # fmt: skip
    assert ran.stderr == ""
    return ran.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_that_names_the_program_and_that_it_can_read(shell: str) -> None:
    script = asked(_OLLAMA_GUARD_COMPLETE=f"source_{shell}")
    assert "ollama-guard" in script
    assert f"_OLLAMA_GUARD_COMPLETE=complete_{shell}" in script
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed: its script was made, and not read")
    read = subprocess.run(
        [found, "-n"], input=script, capture_output=True, text=True, timeout=30, check=False
    )
    assert (read.returncode, read.stderr) == (0, "")


def test_what_the_scripts_of_zsh_and_fish_ask_is_answered() -> None:
    """Bash itself is asked in test_cli."""
    line = "ollama-guard unl"
    zsh = asked(_OLLAMA_GUARD_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert '"unload":"Unload a model' in zsh
    fish = asked(
        _OLLAMA_GUARD_COMPLETE="complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS=line,
    )
    assert fish.splitlines()[0].startswith("unload\t")
