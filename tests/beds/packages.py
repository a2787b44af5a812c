"""System packages that a bed needs: there already, or installed when we are root on a Debian."""

import os
import shutil
import subprocess

from beds import BedUnavailable
from beds.locks import cache_directory, locked

APT_SECONDS = 300
"""An `apt-get update` plus a few megabytes of packages over a slow line."""


def require_program(program: str, *packages: str) -> str:
    """The path of `program`, installing the Debian `packages` that hold it where that is possible.

    Raises:
        BedUnavailable: it isn't there and can't be installed.
    """
    found = shutil.which(program)
    if found:
        return found
    hint = f"{program} is missing (Debian: apt-get install {' '.join(packages)})"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BedUnavailable(hint)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    with locked(cache_directory() / "apt.lock"):
        if _apt(install) is not None:
            _apt(["apt-get", "update", "-qq"])
            problem = _apt(install)
            if problem is not None:
                raise BedUnavailable(f"{hint}; apt-get said: {problem}")
    found = shutil.which(program)
    if not found:
        raise BedUnavailable(hint)
    return found


def _apt(command: list[str]) -> str | None:
    """Run apt-get; None when it worked, else its last line."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, timeout=APT_SECONDS
    )
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or ["nothing"])[-1]
