"""One process as the tick may read it: stat, status, cgroup, children. Never cmdline, smaps or environ.

Those take the target's memory lock and can hang with it; the files here answered within 0.13 ms while
that lock was held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ollama_guard.sentinel.sensors.files import (
    READ_LIMIT,
    KeptFile,
    keyed,
    keyed_kib,
    names_in,
    number,
    slurp,
)

# USER_HZ of this machine: the unit of times in /proc/PID/stat, 100 on every common architecture.
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# Positions in /proc/PID/stat, counted from the field after the name (proc(5): state is field 3).
_STATE, _PARENT, _FLAGS, _MAJFLT, _UTIME, _STIME, _THREADS, _START = 0, 1, 6, 9, 11, 12, 17, 19
# Among the flags of a process: PF_KTHREAD (include/linux/sched.h), which no program can set.
_KERNEL_THREAD = 0x00200000

# Threads of one process that are looked at: a Go server has 10 to 40.
THREADS_LIMIT = 256
# A status text without this line is that of a thread that holds no memory.
_HOLDS = b"\nRssAnon:"
# Looks after which their files are opened anew (10 s at 100 ms): a thread id may be used again unseen.
_RENEW_LOOKS = 100

DEAD_STATES = frozenset("ZXx")
"""Zombie and dead: such a thread holds no memory any more."""


@dataclass(frozen=True, slots=True)
class Stat:
    """/proc/PID/stat: ``start_ticks`` since boot (CLOCK_BOOTTIME), ``cpu_ticks`` of all threads."""

    pid: int
    comm: str
    state: str
    parent: int
    major_faults: int
    cpu_ticks: int
    start_ticks: int
    kernel_thread: bool = False
    threads: int = 1

    @property
    def born_at(self) -> float:
        """Start time in CLOCK_BOOTTIME seconds (the kernel prints start_boottime, fs/proc/array.c)."""
        return self.start_ticks / CLOCK_TICKS

    @property
    def dead(self) -> bool:
        """Whether the process has exited, reaped or not.

        The state is its first thread's, a zombie as soon as that one has ended, though others may go on, or
        hang in the kernel with all of the memory.
        """
        return self.state in DEAD_STATES and self.threads <= 1


@dataclass(frozen=True, slots=True)
class Status:
    """/proc/PID/status: bytes by kind (None for a process without memory), and the effective user id.

    ``is_init``: it is PID 1 of its PID namespace, to which orphans of that namespace go. ``traced``: a
    debugger or tracer is attached that this PID namespace can see.
    """

    anon_bytes: int | None = None
    file_bytes: int | None = None
    shmem_bytes: int | None = None
    swap_bytes: int | None = None
    user_id: int | None = None
    is_init: bool = False
    traced: bool = False


def parse_stat(data: bytes) -> Stat | None:
    """A /proc/PID/stat text; None if it is not whole. The name may hold anything, parentheses included."""
    head, opened, rest = data.partition(b" (")
    comm, closed, tail = rest.rpartition(b") ")
    fields = tail.split()
    if not (opened and closed) or len(fields) <= _START + 1 or len(fields[_STATE]) != 1:
        return None
    wanted = (head, *(fields[i] for i in (_PARENT, _FLAGS, _MAJFLT, _UTIME, _STIME, _START, _THREADS)))
    numbers = [number(field) for field in wanted]
    if None in numbers:
        return None
    pid, parent, flags, faults, user, system, start, threads = (value or 0 for value in numbers)
    name = comm.decode("utf-8", "backslashreplace")
    state, kernel = fields[_STATE].decode("ascii", "replace"), bool(flags & _KERNEL_THREAD)
    return Stat(pid, name, state, parent, faults, user + system, start, kernel, threads)


def parse_status(data: bytes) -> Status:
    """A /proc/PID/status text; each value that is missing or absurd is None."""
    users = _words(data, b"Uid:")
    return Status(
        anon_bytes=keyed_kib(data, b"RssAnon:"),
        file_bytes=keyed_kib(data, b"RssFile:"),
        shmem_bytes=keyed_kib(data, b"RssShmem:"),
        swap_bytes=keyed_kib(data, b"VmSwap:"),
        user_id=number(users[1]) if len(users) == 4 else None,
        is_init=_words(data, b"NSpid:")[-1:] == [b"1"],
        traced=(keyed(data, b"TracerPid:\t") or 0) > 0,
    )


def _words(data: bytes, key: bytes) -> list[bytes]:
    """The words on the line that starts with ``key``; none if it is missing or cut off."""
    _, _, after = data.partition(b"\n" + key)
    line, ended, _ = after.partition(b"\n")
    return line.split() if ended else []


def parse_children(data: bytes) -> frozenset[int]:
    """A /proc/PID/task/TID/children text: PIDs; what is not a PID is left out."""
    return frozenset(pid for field in data.split() if (pid := number(field)))


class Process:
    """The kept-open files of one process; they go on speaking of it alone, even if its PID is reused.

    Once it is gone it stays gone: nothing is opened again under its PID. The files are opened by the first
    reads, so those must be followed by a `stat` that shows the right start time.
    """

    def __init__(self, proc: str, pid: int) -> None:
        self.pid = pid
        self._gone = False
        self._stat = KeptFile(f"{proc}/{pid}/stat")
        self._status = KeptFile(f"{proc}/{pid}/status")
        self._cgroup = KeptFile(f"{proc}/{pid}/cgroup")

    def stat(self) -> Stat | None:
        """The process now, None once it is gone."""
        data = None if self._gone else self._stat.read()
        self._gone = data is None
        return None if data is None else parse_stat(data)

    def status(self) -> Status:
        """Its memory and user now; all None once it is gone."""
        return parse_status((None if self._gone else self._status.read()) or b"")

    def cgroup(self) -> bytes | None:
        """The text of /proc/PID/cgroup, None once it is gone."""
        return None if self._gone else self._cgroup.read()

    def close(self) -> None:
        """Give every descriptor back."""
        for file in (self._stat, self._status, self._cgroup):
            file.close()


def read_stat(proc: str, pid: int) -> Stat | None:
    """/proc/PID/stat as it is now, opened for this look alone; None if there is no such process."""
    data = slurp(f"{proc}/{pid}/stat", 4096)
    return None if data is None else parse_stat(data)


def held_status(proc: str, pid: int) -> bytes:
    """A /proc/PID/status text that shows what memory a process holds; b"" where it holds none.

    Threads share their memory, and each one's text shows all of it; a first thread that has ended shows none.
    """
    text = slurp(f"{proc}/{pid}/status", READ_LIMIT) or b""
    if _HOLDS in text:
        return text
    for thread in names_in(f"{proc}/{pid}/task")[:THREADS_LIMIT]:
        text = slurp(f"{proc}/{pid}/task/{thread}/status", READ_LIMIT) or b""
        if _HOLDS in text:
            return text
    return b""


class Children:
    """The direct children of one process, from the kept-open ``children`` file of each of its threads.

    A child may be missing from one look while a sibling exits (proc(5)); the next look has it.
    """

    def __init__(self, proc: str, pid: int) -> None:
        self._base = f"{proc}/{pid}/task"
        self._files: dict[str, KeptFile] = {}
        self._renew_at = 0

    def read(self) -> frozenset[int] | None:
        """Their PIDs now; None if the kernel doesn't tell, or the process is gone."""
        threads = names_in(self._base)
        self._renew_at -= 1
        if self._files.keys() != set(threads) or self._renew_at <= 0:
            self._renew(threads)
        found = [data for file in self._files.values() if (data := file.read()) is not None]
        return parse_children(b" ".join(found)) if found else None

    def close(self) -> None:
        """Give every descriptor back."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _renew(self, threads: list[str]) -> None:
        """Open the files of these threads; in time all anew, lest a file speak of an earlier thread."""
        if self._renew_at <= 0:
            self.close()
            self._renew_at = _RENEW_LOOKS
        for gone in self._files.keys() - set(threads):
            self._files.pop(gone).close()
        for thread in threads[:THREADS_LIMIT]:
            if thread not in self._files:
                self._files[thread] = KeptFile(f"{self._base}/{thread}/children")


def pids(proc: str) -> Iterator[int]:
    """Every PID of the process list, as it was when it was opened."""
    for name in names_in(proc):
        if name.isdecimal() and name.isascii():
            yield int(name)
