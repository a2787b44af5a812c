"""Records what the sensors read of some processes, as a tree that they can read again: `proc/` and `cgroup/`.

    PYTHONPATH=src:tests python -m beds.record --replace OLD=NEW --leave-out WORD OUT PID...

This is how the trees in tests/corpus were made. The standard library is enough, so that it runs inside a bed.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ollama_guard.sentinel.sensors.cgtree import CgroupTrees
from ollama_guard.sentinel.sensors.files import slurp

HOST_FILES = ("meminfo", "vmstat", "pressure/memory")
PROCESS_FILES = ("stat", "status", "cmdline", "cgroup")
CGROUP_FILES = (
    *("memory.max", "memory.high", "memory.current", "memory.events", "memory.pressure"),
    *("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "memory.stat"),
)


class Recorder:
    """Writes below `out`; each `replacement` is applied to file contents and to names alike.

    Lines of mountinfo that hold one of the words `left_out` are not written: they tell of the machine that
    the recording was made on, not of Ollama's world.
    """

    def __init__(self, out: Path, replacements: Sequence[tuple[str, str]], left_out: Sequence[str]) -> None:
        self._out = out
        self._replacements = replacements
        self._left_out = left_out
        self._trees = CgroupTrees("/proc", "/sys/fs/cgroup")

    def host(self) -> None:
        """The host's files, and the mounts as this process sees them."""
        for name in HOST_FILES:
            self._copy(Path("/proc") / name, f"proc/{name}")
        lines = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
        kept = [line for line in lines if not any(word in line for word in self._left_out)]
        self._write("proc/self/mountinfo", "".join(kept).encode())

    def process(self, pid: int) -> None:
        """One process, which threads of it have children, and its memory cgroup with all levels above."""
        for name in PROCESS_FILES:
            self._copy(Path(f"/proc/{pid}/{name}"), f"proc/{pid}/{name}")
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  names are what is wanted
            source = Path(f"/proc/{pid}/task/{thread}/children")
            if thread == str(pid) or slurp(str(source)):
                self._copy(source, f"proc/{pid}/task/{thread}/children")
        for directory in self._cgroups(slurp(f"/proc/{pid}/cgroup") or b""):
            for name in CGROUP_FILES:
                self._copy(directory / name, f"cgroup/{(directory / name).relative_to('/sys/fs/cgroup')}")

    def _cgroups(self, membership: bytes) -> Iterator[Path]:
        place = self._trees.place(membership)
        yield from map(Path, place.directories)
        if place.pressure:
            yield Path(place.pressure).parent  # on v1 the PSI file is in the v2 twin

    def _copy(self, source: Path, name: str) -> None:
        data = slurp(str(source))
        if data is not None:
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        for old, new in self._replacements:
            name, data = name.replace(old, new), data.replace(old.encode(), new.encode())
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main(arguments: Sequence[str]) -> None:
    """Record the host and these processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("pids", type=int, nargs="*", metavar="PID")
    parser.add_argument("--replace", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="WORD", help="mounts that hold it"
    )
    given = parser.parse_args(arguments)
    pairs = [pair.partition("=") for pair in given.replace]
    recorder = Recorder(given.out, [(old, new) for old, _, new in pairs], given.leave_out)
    recorder.host()
    for pid in given.pids:
        recorder.process(pid)


if __name__ == "__main__":
    main(sys.argv[1:])
