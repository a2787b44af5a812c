"""Bed 4: a whole small machine without swap, at native speed, in a cgroup (root, lxcfs).

A memory-limited cgroup, a mount and a PID namespace of its own, lxcfs's `/proc/meminfo` and the cgroup's PSI
bound over the real files. Programs inside, earlyoom and free(1) included, believe it, and the kernel's
OOM killer acts inside it. The network is shared with the outside: servers inside are reached on 127.0.0.1.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.packages import require_program
from beds.process import Started, children

_ENTER = Path(__file__).with_name("enter.py")
START_SECONDS = 10.0
"""lxcfs and the namespaces are there in about 0.1 s."""

# The init ignores SIGCHLD, so that orphans inside are reaped by the kernel; `cat` ends when its test ends,
# since the pipe on its standard input closes then, and with init ends everything inside.
_INIT = """
set -e
while [ "$1" != -- ]; do echo 0 >"$1"; shift; done; shift
mount --bind "$1" /proc/meminfo
[ -z "$2" ] || mount --bind "$2" /proc/pressure/memory
trap '' CHLD
echo ready
exec cat
"""


class SmallHost:
    """A machine of `memory_bytes`. Enter it to switch it on; leaving kills and removes everything.

    Raises (on entering):
        BedUnavailable: not root, no namespaces, no FUSE, or lxcfs can't be had.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.cgroup = MemoryCgroup(memory_bytes, "smallhost")
        self.init_pid = 0
        self.lxcfs = Path()
        """Where its lxcfs is mounted, as this machine sees it."""
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not Path("/dev/fuse").exists():
            raise BedUnavailable("lxcfs needs /dev/fuse")
        require_program("free", "procps")  # programs inside are to find what any machine has
        with contextlib.ExitStack() as stack:
            lxcfs = stack.enter_context(_Lxcfs())
            stack.enter_context(self.cgroup)
            self.lxcfs = lxcfs.mount
            self._switch_on(lxcfs.meminfo, stack)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _switch_on(self, meminfo: Path, stack: contextlib.ExitStack) -> None:
        pressure = self.cgroup.pressure_path
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv += ["/bin/sh", "-c", _INIT, "init", *map(str, self.cgroup.join_paths), "--"]
        argv += [str(meminfo), str(pressure or "")]
        init = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert init.stdin is not None
        assert init.stdout is not None
        assert init.stderr is not None
        stack.callback(_switch_off, init)
        if init.stdout.readline() != b"ready\n":
            raise BedUnavailable(f"no small host can be made here: {init.stderr.read().decode().strip()}")
        (self.init_pid,) = children(init.pid)

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> Started:
        """Start a program inside (a `Launcher`); the `Started` has its PID as the outside numbers it."""
        reading, writing = os.pipe()
        enter = [sys.executable, "-I", "-S", str(_ENTER), str(self.init_pid), str(writing)]
        process = subprocess.Popen(
            [*enter, *map(str, self.cgroup.join_paths), "--", *argv],
            env=None if env is None else dict(env),
            pass_fds=(writing,),
            **kwargs,
        )
        os.close(writing)
        with os.fdopen(reading) as report:
            line = report.readline()
        if not line:
            raise RuntimeError(f"{argv[0]} can't be started inside: exit code {process.wait()}")
        return Started(process, int(line))

    def run(self, argv: Sequence[str], timeout: float = 30.0) -> str:
        """Run a program inside to its end and return what it printed.

        Raises:
            subprocess.CalledProcessError: it ended with another code than 0.
        """
        started = self.popen(argv, stdout=subprocess.PIPE)
        text, _ = started.process.communicate(timeout=timeout)
        if started.process.returncode != 0:
            raise subprocess.CalledProcessError(started.process.returncode, list(argv), text)
        return text.decode()

    def inner_pid(self, pid: int) -> int:
        """The number that a process has inside (NSpid); ProcessLookupError when it isn't there."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError as gone:
            raise ProcessLookupError(pid) from gone
        numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        if len(numbers) < 2:
            raise ProcessLookupError(pid)
        return int(numbers[-1])

    def outer_pid(self, inner_pid: int) -> int:
        """The number that this machine gives to a process inside; ProcessLookupError when there is none."""
        for pid in self.cgroup.pids():
            with contextlib.suppress(ProcessLookupError):
                if self.inner_pid(pid) == inner_pid:
                    return pid
        raise ProcessLookupError(inner_pid)

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo as programs inside read it, in bytes."""
        # lxcfs answers each reader with the reader's own cgroup, so it must be read inside.
        lines = self.run(["cat", "/proc/meminfo"]).splitlines()
        return {
            key: int(value.split()[0]) * 1024 for key, value in (line.split(":") for line in lines) if value
        }

    def available(self) -> int:
        """MemAvailable inside, in bytes."""
        return self.meminfo()["MemAvailable"]

    def oom_kills(self) -> int:
        """Processes inside that the kernel's OOM killer ended."""
        return self.cgroup.oom_kills()

    def pressure(self) -> str:
        """/proc/pressure/memory as programs inside read it."""
        return Path(f"/proc/{self.init_pid}/root/proc/pressure/memory").read_text()


def _switch_off(init: "subprocess.Popen[bytes]") -> None:
    """Kill `unshare`; --kill-child ends the init with it, and the kernel whatever else is inside."""
    init.kill()
    init.wait()
    for pipe in (init.stdin, init.stdout, init.stderr):
        assert pipe is not None
        pipe.close()


class _Lxcfs:
    """Our own lxcfs on a private directory, without swap (without -u it shows SwapFree near 2**64)."""

    def __init__(self) -> None:
        self._program = require_program("lxcfs", "lxcfs", "fuse3")

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="lxcfs-")
        self.mount = Path(self._home.name) / "mount"
        self.mount.mkdir()
        self.meminfo = self.mount / "proc" / "meminfo"
        pidfile = Path(self._home.name) / "pid"
        self._log = (Path(self._home.name) / "log").open("wb")
        # setpriv: it ends, and unmounts, even when the tests are killed.
        argv = ["setpriv", "--pdeathsig", "TERM", self._program, "-f", "-u", "-p"]
        argv += [str(pidfile), str(self.mount)]
        self._process = subprocess.Popen(argv, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + START_SECONDS
        while not self.meminfo.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = Path(self._log.name).read_text(errors="replace").strip().splitlines()
                self.__exit__()
                raise BedUnavailable(f"lxcfs doesn't start here: {said[-1] if said else 'no message'}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        # Unmounted first: a killed FUSE server leaves a mount that answers "not connected".
        subprocess.run(["umount", "--lazy", self.mount], check=False, capture_output=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._home.cleanup()
