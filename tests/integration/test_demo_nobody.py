"""The demo without root: as the user nobody, who owns nothing here."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import ollama_guard
from beds.process import Started, launch
from beds.show import Show

NOBODY = 65534
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
MAIN = "from ollama_guard.cli import main; main()"
VERSION = "import sys; print(sys.version_info[:2])"
INTERPRETERS = (sys.executable, "/usr/bin/python3")


@pytest.fixture
def python() -> Iterator[Path]:
    """An interpreter with our packages that nobody may start; ours is mostly in somebody's home."""
    if os.geteuid():
        pytest.skip("not root: every other show here is one without root already")
    folder = Path(tempfile.mkdtemp(prefix="nobody-"))
    folder.chmod(0o755)
    try:
        made = folder / "venv" / "bin" / "python"
        subprocess.run([reachable(), "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=60)
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        ours = [Path(pytest.__file__).parents[1], Path(ollama_guard.__file__).parents[1]]
        (site / "ours.pth").write_text("".join(f"{place}\n" for place in ours))
        told = as_nobody(str(made), "import ollama_guard.demo.play, psutil, httpx")
        if told.returncode:
            pytest.skip(f"nobody may not read our packages: {told.stderr.splitlines()[-1]}")
        yield made
    finally:
        shutil.rmtree(folder)


def reachable() -> str:
    """An interpreter that nobody may start, of the version that our packages are for."""
    ours = f"{sys.version_info[:2]}\n"
    found = next((path for path in INTERPRETERS if as_nobody(path, VERSION).stdout == ours), None)
    if found is None:
        pytest.skip(f"no interpreter of this version that nobody may start among {', '.join(INTERPRETERS)}")
    return found


def as_nobody(python: str, code: str) -> subprocess.CompletedProcess[str]:
    argv = [python, "-I", "-c", code]
    try:
        return subprocess.run(
            argv, **AS_NOBODY, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as problem:
        return subprocess.CompletedProcess(argv, 126, "", str(problem))


def test_who_is_nobody_sees_the_show_and_owns_every_process_of_it(python: Path) -> None:
    def start(argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any) -> Started:
        assert env is not None
        for place in (env["TMPDIR"], env["HOME"]):
            os.chown(place, NOBODY, NOBODY)
        command = [str(python), "-I", "-c", MAIN, *argv[1:]]
        return launch(command, env=env, cwd="/", **AS_NOBODY, **options)

    with Show("--pace", "3", launcher=start) as show:
        show.wait_text("A chat")
        owners = {Path("/proc", str(pid)).stat().st_uid for pid in show.left_processes()}
        assert owners == {NOBODY}
        assert show.wait() == 0, show.text
        assert "coder:3b unloaded" in show.text
        assert "Traceback" not in show.text
        assert len(show.traces()) == 1
        assert not show.left_processes()
        assert not show.left_files()
