"""A tight cgroup in which a program reads a mapped file larger than the limit: who lives there stalls.

What a process has taken before it moves in stays charged where it was, so `hands` are caught at their birth.
They would hardly ever ask for new pages once they run, so `FRESH_PAGES` makes them, and `Pester` keeps them
at work.
"""

import contextlib
import errno
import mmap
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

MIB = 1 << 20
FRESH_PAGES = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
"""For the guard's environment: glibc takes every larger buffer fresh from the kernel, and gives it back."""
BIRTH_LIMIT_BYTES = 64 * MIB
"""Room enough for the imports of `hands`."""
SPARE_BYTES, MOST_SPARE_BYTES = 5 * MIB, 20 * MIB
"""What is left beside what can't be reclaimed: so little that reclaim takes hands a third of their time."""
FILE_BYTES = 256 * MIB
"""Several times the limit, so that no page is still there when the reader comes by again."""
_PORTION_BYTES = 2 * MIB
_PAUSE_SECONDS = 0.001
"""After each portion: the stalls are to come from reclaim, not from a reader that takes a whole core."""
_BIRTH_SECONDS = 40.0
"""Hands that die at once are started again after 30 s at the latest."""
_TIGHTEN_BYTES = MIB
_TIGHTEN_SECONDS = 2.0
"""Hands that have not stalled for so long have settled in what they have: they get less."""
_PESTERERS = 3
_PESTER_SECONDS = 0.02


class Thrash:
    """A cgroup under constant reclaim, with a place of its own for `hands`, whose stalls are told apart."""

    def __init__(self) -> None:
        self.cgroup = MemoryCgroup(BIRTH_LIMIT_BYTES, "thrash")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # On a disk: the pages of a tmpfs can't be reclaimed without swap.
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="thrash-", dir=Path.home()))
            file.truncate(FILE_BYTES)
            stack.enter_context(self.cgroup)
            if self.cgroup.pressure_path is None:
                raise BedUnavailable("this kernel shows no pressure (PSI) of a cgroup")
            for place in self._places:
                place.mkdir()
            reader = self.cgroup.popen([sys.executable, "-I", "-S", __file__, file.name])
            stack.callback(reader.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _places(self) -> list[Path]:
        return [path / "hands" for path in (self.cgroup.v1, self.cgroup.v2) if path is not None]

    def catch(self, guard: "Guard") -> int:
        """Kill the guard's `hands`, move the next ones in as they are born, tighten; returns their PID."""
        self.cgroup.set_limit(BIRTH_LIMIT_BYTES)
        beats = len(guard.events("hands.restarted"))
        with contextlib.suppress(ProcessLookupError):
            os.kill(guard.hands_pid, signal.SIGKILL)
            guard.wait(lambda: len(guard.events("hands.restarted")) > beats, 10, "the death of hands is seen")
        pid = self._welcome(guard)
        sockets = guard.runtime / "status.sock"
        guard.wait(lambda: _answers(sockets, 1.0), _BIRTH_SECONDS, "the new hands answer")
        if self.cgroup.is_v1:
            # At the very limit they are to wait, not to be killed.
            (self.cgroup.path / "memory.oom_control").write_text("1")
        self._tighten(SPARE_BYTES)
        return pid

    def _tighten(self, spare_bytes: int) -> None:
        """So much above what is used; the kernel refuses what it can't reclaim at once."""
        try:
            self.cgroup.set_limit(self.cgroup.limit - self.cgroup.available() + spare_bytes)
        except OSError as problem:
            if problem.errno != errno.EBUSY or spare_bytes > MOST_SPARE_BYTES:
                raise
            self._tighten(spare_bytes * 2)

    def _welcome(self, guard: "Guard") -> int:
        deadline = time.monotonic() + _BIRTH_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                pid = guard.hands_pid
                for place in self._places:
                    (place / "cgroup.procs").write_text(str(pid))
                return pid
            time.sleep(0.001)
        raise AssertionError(f"no hands were born\n{guard.tail()}")

    def holds(self, pid: int) -> bool:
        """Whether a process lives in the place for `hands`."""
        return all(str(pid) in (place / "cgroup.procs").read_text().split() for place in self._places)

    def stalled_seconds(self) -> float:
        """For how long, in all, at least one thread of `hands` has stalled for memory (PSI `some`)."""
        whole = self.cgroup.pressure_path
        assert whole is not None
        some = (whole.parent / "hands" / whole.name).read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6

    def squeeze(self) -> None:
        """Leave them a little less than now, where that can be had."""
        with contextlib.suppress(OSError):  # v1 refuses a limit that it can't reclaim down to
            self.cgroup.set_limit(self.cgroup.limit - _TIGHTEN_BYTES)

    def wait_stalled(self, guard: "Guard", seconds: float, within_seconds: float) -> None:
        """Wait until `hands` have stalled for ``seconds`` from now on, and tighten until they do."""
        before, tightened_at = self.stalled_seconds(), time.monotonic()

        def stalled() -> bool:
            nonlocal tightened_at
            if time.monotonic() - tightened_at > _TIGHTEN_SECONDS:
                tightened_at = time.monotonic()
                self.squeeze()
            return self.stalled_seconds() - before > seconds

        guard.wait(stalled, within_seconds, "hands stall")


class Pester:
    """Threads that ask for the status over and over, so that the lanes of `hands` always have work."""

    def __init__(self, status_socket: Path) -> None:
        self._socket = status_socket
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_PESTERERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(_PESTER_SECONDS):
            _answers(self._socket, 2.0)


def _answers(status_socket: Path, seconds: float) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(seconds)
        client.connect(str(status_socket))
        client.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answered = False
        while client.recv(65536):
            answered = True
        return answered
    return False


def _read_for_ever(path: str) -> None:
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        while True:
            for start in range(0, len(view), _PORTION_BYTES):
                view.find(b"\1", start, start + _PORTION_BYTES)  # the file is all zeros
                time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    _read_for_ever(sys.argv[1])
else:
    import os
    import signal
    import socket
    import threading

    from beds import BedUnavailable
    from beds.cgroups import MemoryCgroup
    from beds.guard import Guard
