"""A root to throw away: this machine's own files, and what is written to them stays in memory. Needs root.

It has its own processes and its own loopback, and no systemd: what is installed there meets nobody.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from beds import BedUnavailable

# What is written to; /run is empty, as on a machine that has just booted (and no systemd runs there).
FOLDERS = ("/etc", "/opt", "/root", "/usr", "/var")
# Prints `ready`, then lives until its standard input ends. Its arguments: a folder for the layers, FOLDERS.
_SETUP = """
set -e
mount -t tmpfs tmpfs "$1"
layers=$1
shift
for folder; do
  layer=$layers$folder
  mkdir -p "$layer/upper" "$layer/work"
  mount -t overlay overlay -o "lowerdir=$folder,upperdir=$layer/upper,workdir=$layer/work" "$folder"
done
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
echo ready
read -r _ || exit 0
"""
_SECONDS = 240.0


class ThrowAwayRoot:
    """Enter it to have it; ``folder`` is an empty one that it may mount its layers on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise BedUnavailable("only root can make a root to throw away")
        self._folder.mkdir(exist_ok=True)
        own = ["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            ["unshare", *own, "sh", "-c", _SETUP, "-", str(self._folder), *FOLDERS],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline() != "ready\n":
            said = self._process.stderr.read().strip()
            self.__exit__()
            raise BedUnavailable(f"no root to throw away can be made here: {said}")
        children = Path("/proc", str(self._process.pid), "task", str(self._process.pid), "children")
        self._pid = int(children.read_text(encoding="ascii").split()[0])
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()  # the end of its standard input is its end, and of all in it

    @property
    def path(self) -> Path:
        """Its root, as it is seen from here."""
        return Path("/proc", str(self._pid), "root")

    def run(
        self,
        *argv: str | Path,
        umask: int = 0o022,
        environment: Mapping[str, str] | None = None,
        user: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run something in it, and wait; ``environment`` is added to a plain one."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        into = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--net", "--wd=/"]
        return subprocess.run(
            [*into, *as_user, *map(str, argv)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **(environment or {})},
            umask=umask, capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
