"""Puts the real LiteLLM proxy into a virtual environment of its own, in the cache, once a machine.

It has 120 packages (760 MB) and wants other versions of some of ours, so `.venv` stays free of it.
"""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from beds import BedUnavailable
from beds.locks import cache_directory, locked

LOCK = Path(__file__).parents[2] / "requirements" / "litellm.lock"

INSTALL_SECONDS = 1800
"""A hundred megabytes of wheels and 40 s of CPU time, on a slow line and a machine that is busy otherwise."""


@dataclass(frozen=True, slots=True)
class LitellmInstallation:
    """Where its virtual environment is."""

    root: Path

    @property
    def python(self) -> Path:
        """The interpreter that can import it."""
        return self.root / "bin" / "python"

    @property
    def program(self) -> Path:
        """The proxy."""
        return self.root / "bin" / "litellm"

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        return self.program.exists()


def located() -> LitellmInstallation:
    """Where it is or will be: another lock or another Python is another environment."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    content = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return LitellmInstallation(cache_directory() / f"litellm-{content}-python{python}")


def install() -> LitellmInstallation:
    """Return the installation, making it first if need be (a minute or two).

    Raises:
        BedUnavailable: the wheels can't be had, or there is none for this Python.
    """
    installation = located()
    with locked(installation.root.with_suffix(".lock")):
        if not installation.is_there:
            _install(installation)
    return installation


def _install(installation: LitellmInstallation) -> None:
    # An environment can't be moved, so a broken-off attempt is removed; the proxy's program comes last.
    shutil.rmtree(installation.root, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(installation.root)], "a virtual environment can't be made")
    pip = [str(installation.python), "-m", "pip", "install", "--quiet", "--no-compile"]
    try:
        _run(
            [*pip, "--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)],
            "the wheels of LiteLLM can't be had",
        )
    except BaseException:
        shutil.rmtree(installation.root, ignore_errors=True)
        raise


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise BedUnavailable(f"{what} within {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise BedUnavailable(f"{what}: {last}")
