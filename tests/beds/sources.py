"""The project's sources as a copy to build from, and wheels without a package index."""

from __future__ import annotations

import re
import shutil
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_of_the_sources(folder: Path) -> None:
    """What packaging needs, with completions (which `make` makes)."""
    for part in ("packaging", "systemd", "config", "docs/man"):
        shutil.copytree(ROOT / part, folder / part)
    for file in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / file, folder)
    (folder / "build" / "completions").mkdir(parents=True)
    for shell in ("bash", "zsh", "fish"):
        (folder / "build" / "completions" / shell).write_text(f"# {shell}\n", encoding="utf-8")


def wheels_of_this_environment(folder: Path) -> None:
    """One wheel of what this environment has already, and a foreign one that must be left alone."""
    folder.mkdir()
    locked = (ROOT / "requirements/runtime.lock").read_text(encoding="utf-8")
    with zipfile.ZipFile(folder / "all-1-py3-none-any.whl", "w") as archive:
        for name in re.findall(r"^([a-z0-9-]+)==[^;\n]+$", locked, re.MULTILINE):
            for file in metadata.distribution(name).files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    archive.write(str(file.locate()), str(file))
        for path in (ROOT / "src").rglob("*.py"):
            archive.write(path, path.relative_to(ROOT / "src"))
    with zipfile.ZipFile(folder / "foreign-1-cp39-cp39-manylinux2014_x86_64.whl", "w") as archive:
        archive.writestr("of_another_machine.py", "")
