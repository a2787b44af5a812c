"""A laid-out machine with a fake Ollama: its files lie below a folder (`--root`), its processes are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from beds.cgroups import MemoryCgroup
from ollama_guard.testing.fake import FakeOllama
from ollama_guard.testing.systemd import FakeSystemd, FakeUnit

MIB = 1024**2
MAIN = "from ollama_guard.cli import main; main()"
CONFIG = "/etc/ollama-guard/ollama-guard.toml"
MODELS = ("small=40MiB,kv=23040", "large=90MiB,kv=23040", "never=900MiB,kv=23040")

GROUPS = {"status.sock": 64001, "control.sock": 64002}
KERNEL = {
    "/proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 2097148 0 -2\n",
    "/proc/sys/kernel/osrelease": "6.1.0-28-amd64\n",
    "/proc/sys/vm/overcommit_memory": "0\n",
    "/proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "/sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
    "/sys/block/sda/queue/rotational": "0\n",
    "/etc/group": "root:x:0:\nollama-guard:x:64001:\nollama-guard-admin:x:64002:\n",
}
"""What `doctor` reads of a kernel, and of groups, on a machine without a fault."""


@dataclass
class Box:
    """A machine of one test: its tree, its Ollama in a cgroup of a given name, the guard's commands on it."""

    root: Path
    home: Path
    cgroup: MemoryCgroup
    systemd: FakeSystemd
    docker: str = ""
    server: FakeOllama | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    def start(
        self, name: str, environment: Mapping[str, str] | None = None, models: Sequence[str] = MODELS
    ) -> None:
        """Start an Ollama in the cgroup ``name`` of this box, instead of the one that runs, at its port."""
        port = 0
        if self.server is not None:
            port = self.server.port
            self.server.close()
        inside = [path.parent / name for path in self.cgroup.join_paths]
        for folder in inside:
            folder.mkdir(exist_ok=True)
        self.server = FakeOllama(
            models, env=environment, port=port, cgroup_procs=[folder / "cgroup.procs" for folder in inside]
        )
        self.server.start()
        if name.endswith(".service"):
            self.systemd.units = {name: FakeUnit(name, self.server.pid)}

    @property
    def watched_by_systemd(self) -> frozenset[str]:
        """What a unit without OOMPolicy is found for: on cgroup v1 nothing, where systemd can't watch."""
        old = (self.cgroup.path / "memory.limit_in_bytes").exists()
        return frozenset() if old else frozenset({"oom_policy"})

    def put(self, path: str, text: str) -> Path:
        """A file of this machine."""
        file = self.root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def text(self, path: str) -> str:
        """What is in a file of this machine."""
        return (self.root / path.removeprefix("/")).read_text()

    def configure(self, more: str = "") -> None:
        """The owner's configuration: this box's Ollama and no other test's."""
        assert self.server is not None
        own = f'url = "{self.server.url}"\ncgroup = "/{self.cgroup.name}"\n'
        self.put(CONFIG, f"# mine\n[ollama]\n{own}{more}")

    def run(
        self, command: str, *arguments: str, main: str = MAIN, within: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """One command on this machine; ``within``: what it is run by."""
        argv = [*within, sys.executable, "-I", "-c", main, command, *arguments, f"--root={self.root}"]
        environment = {
            "PATH": os.environ["PATH"],
            "RUNTIME_DIRECTORY": str(self.home / "run"),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.systemd.path}",
            "DOCKER_HOST": self.docker or f"unix://{self.home}/no-docker.sock",
        }
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)

    def tree(self) -> dict[str, bytes | None]:
        """Every path of the machine, with its content."""
        return {
            str(path.relative_to(self.root)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
        }


@contextmanager
def laid_out(folder: Path, limit_bytes: int = 600 * MIB) -> Iterator[Box]:
    """A box with nothing in it yet.

    Raises:
        BedUnavailable: no cgroup can be made here.
    """
    with MemoryCgroup(limit_bytes, "init") as cgroup, ExitStack() as stack:
        root = folder / "root"
        root.mkdir()
        box = Box(root, folder, cgroup, stack.enter_context(FakeSystemd(folder / "bus")), stack=stack)
        try:
            yield box
        finally:
            if box.server is not None:
                box.server.close()


def swap_is_open(cgroup: MemoryCgroup) -> None:
    """Docker's and systemd's default: a limit of memory alone."""
    for name, value in (("memory.memsw.limit_in_bytes", "-1"), ("memory.swap.max", "max")):
        if (cgroup.path / name).exists():
            (cgroup.path / name).write_text(value)


def with_groups(runtime: Path) -> None:
    """Give a running guard's sockets to the groups that `KERNEL` lays out, as its unit's tmpfiles do."""
    for name, number in GROUPS.items():
        os.chown(runtime / name, -1, number)


def told(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Each of `doctor`'s findings with its severity."""
    findings = json.loads(result.stdout)["findings"]
    return {finding["id"]: finding["severity"] for finding in findings}
