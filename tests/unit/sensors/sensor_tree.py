"""A /proc and a cgroup tree, laid out in a folder or recorded, for the sensors to read."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ollama_guard.core.model import ApiReading, CatalogueEntry, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.sensors import Sensors
from ollama_guard.sentinel.sensors.watches import OpenPidfd

CORPUS = Path(__file__).parents[2] / "corpus"
MIB = 1024**2
GIB = 1024**3
MODELS = "/var/lib/ollama/models"
BLOB = "a" * 64
CGROUP = "0::/system.slice/ollama.service\n"
MOUNTS = (
    "22 27 0:21 / /proc rw - proc proc rw\n"
    "30 23 0:27 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
)


def corpus(name: str) -> bytes:
    """One recorded file."""
    return (CORPUS / name).read_bytes()


def every_recorded() -> list[str]:
    """The names of all recorded files, for `corpus`."""
    return sorted(
        str(path.relative_to(CORPUS))
        for path in CORPUS.rglob("*")
        if path.is_file() and path.name != "README.md"
    )


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded tree, to be read where it lies."""

    name: str
    proc: Path
    cgroup: Path

    def copied_to(self, folder: Path) -> "Recording":
        """The same in `folder`: the sensors write triggers into PSI files."""
        shutil.copytree(CORPUS / self.name, folder / self.name)
        return Recording(self.name, folder / self.name / "proc", folder / self.name / "cgroup")


def recording(name: str) -> Recording:
    """A tree of the corpus."""
    return Recording(name, CORPUS / name / "proc", CORPUS / name / "cgroup")


def llama_server(blob: str = BLOB, models: str = MODELS, context: int = 4096) -> list[str]:
    """The command line of a runner of the newer dialect."""
    return (
        f"/usr/lib/ollama/llama-server --model {models}/blobs/sha256-{blob} --port 4711 --host 127.0.0.1 "
        f"--no-webui --offline -c {context} -np 1 --load-mode none --flash-attn auto -b 512 -ub 512"
    ).split()


class Tree:
    """Processes and cgroups as files; `kill` and `move` change them as the kernel would."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        self.cgroup.mkdir(parents=True)
        self.write("self/mountinfo", MOUNTS)
        self.meminfo(16 * GIB, 8 * GIB)
        self.write("vmstat", corpus("vmstat-6.18.txt"))
        self.write("pressure/memory", corpus("pressure-6.18.txt"))
        self.process(1, "systemd", ["/sbin/init"], parent=0)
        self._parents: dict[int, int] = {}

    def write(self, path: str, content: str | bytes) -> None:
        """Write one file below /proc."""
        _write(self.proc / path, content)

    def meminfo(self, total: int, available: int) -> None:
        """What the host says of its memory, in bytes."""
        total, available = total // 1024, available // 1024
        self.write("meminfo", f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n")

    def process(  # noqa: PLR0913  a process has that many facts
        self,
        pid: int,
        comm: str,
        argv: Sequence[str] = (),
        *,
        parent: int = 1,
        start: int = 1000,
        user: int = 998,
        cgroup: str = CGROUP,
        anon: int = 100 * MIB,
        state: str = "S",
        threads: int = 1,
    ) -> None:
        """Let a process be there, also in its parent's list of children."""
        numbers = f"0 0 0 -1 4194304 100 0 7 0 150 50 0 0 20 0 {threads} 0"
        self.write(f"{pid}/stat", f"{pid} ({comm}) {state} {parent} {numbers} {start} 3133440 383\n")
        self.write(
            f"{pid}/status",
            f"Name:\t{comm}\nUid:\t{user}\t{user}\t{user}\t{user}\nNSpid:\t{pid}\n"
            f"RssAnon:\t{anon // 1024} kB\nRssFile:\t2048 kB\nRssShmem:\t0 kB\nVmSwap:\t0 kB\n",
        )
        self.write(f"{pid}/cgroup", cgroup)
        self.write(f"{pid}/cmdline", "".join(f"{word}\0" for word in argv))
        self.write(f"{pid}/task/{pid}/children", "")
        if parent > 0:
            self._list(parent, pid, there=True)

    def kernel_thread(self, pid: int) -> None:
        """A worker of the kernel, by its flags."""
        self.process(pid, "kworker/0:1", parent=2)
        path = self.proc / f"{pid}/stat"
        path.write_text(path.read_text().replace(" 4194304 ", f" {0x04208000 | 0x00200000} "))

    def server(self, pid: int = 50, start: int = 900, cgroup: str = CGROUP, user: int = 998) -> None:
        """An `ollama serve`."""
        self.process(pid, "ollama", ["/usr/bin/ollama", "serve"], start=start, cgroup=cgroup, user=user)

    def kill(self, pid: int) -> None:
        """Let a process be gone; its children go to init."""
        stat = (self.proc / f"{pid}/stat").read_text()
        self._list(int(stat.rpartition(")")[2].split()[1]), pid, there=False)
        for child in (self.proc / f"{pid}/task/{pid}/children").read_text().split():
            self.reparent(int(child), 1)
        _remove(self.proc / str(pid))

    def reparent(self, pid: int, parent: int) -> None:
        """Give a process another parent."""
        path = self.proc / f"{pid}/stat"
        head, _, tail = path.read_text().rpartition(")")
        fields = tail.split()
        fields[1] = str(parent)
        path.write_text(f"{head}) {' '.join(fields)}\n")
        self._list(parent, pid, there=True)

    def limit(self, path: str, **files: int | str) -> Path:
        """A v2 cgroup with these `memory.` files (max, high, current; stat is recorded unless given)."""
        directory = self.cgroup / path.strip("/")
        _write(directory / "memory.stat", str(files.pop("stat", corpus("memory.stat-v2-6.1.txt").decode())))
        _write(directory / "memory.events", corpus("memory.events-v2.txt"))
        for name, value in files.items():
            _write(directory / f"memory.{name}", f"{value}\n")
        return directory

    def _list(self, parent: int, pid: int, *, there: bool) -> None:
        path = self.proc / f"{parent}/task/{parent}/children"
        listed = set(path.read_text().split()) if path.exists() else set()
        listed = listed | {str(pid)} if there else listed - {str(pid)}
        _write(path, " ".join(sorted(listed, key=int)) + " ")


class Watcher:
    """Sensors over a tree, with a clock of its own, and patience for the witness' answers."""

    def __init__(self, tree: Tree | Recording, policy: Policy, open_pidfd: OpenPidfd | None = None) -> None:
        proc, cgroups = str(tree.proc), str(tree.cgroup)
        self.sensors = Sensors(policy, proc=proc, cgroup_root=cgroups, open_pidfd=open_pidfd)
        self.now = 100.0
        self.catalogue: tuple[CatalogueEntry, ...] = ()

    def look(self, seconds: float = 0.1) -> Snapshot:
        """One look, so much later."""
        self.now += seconds
        return self.sensors.sense(
            self.now, 0.0, ApiReading(), self.catalogue, (), hands_alive=True, hands_reason=""
        )

    def settle(self, seconds: float = 0.6) -> Snapshot:
        """Look until everything that is asked of the witness has been answered."""
        snapshot = self.look(seconds)
        for _ in range(20):
            self.wait()
            snapshot = self.look(0.001)
        return snapshot

    def wait(self) -> None:
        """Let the witness answer what it was asked, if anything."""
        witness = self.sensors._witness
        if witness._asked is not None:
            witness._socket.settimeout(2)
            witness._socket.recv(1, 2)  # MSG_PEEK
            witness._socket.settimeout(0)


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _remove(path: Path) -> None:
    for child in path.iterdir():
        _remove(child) if child.is_dir() else child.unlink()
    path.rmdir()
