"""What the latency benchmarks share: the hog that crosses, the place, the tally, and no guard at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from beds.cgroups import MemoryCgroup
from beds.decoys import TcpProxy
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.thrash import FRESH_PAGES
from benchmarks import modes

MIB = 1 << 20
LIMIT_BYTES = 1024 * MIB
NO_GUARD = "no guard"
# What one runner of 24 MiB takes in all: weights, KV cache, and the interpreter of the fake.
RUNNER_BYTES = 34 * MIB
# The thread or process that takes the time must not be what is late.
WATCHER_NICE = -20
# The kernel fills the last 100 MiB in 0.1 s, and then picks at once.
_KERNEL_SECONDS = 20.0
_SCRIPT = Path(__file__).with_name("spike.py")
_HEADINGS = ("p50 ms", "p95 ms", "p99 ms", "max ms")


@dataclass
class Tally:
    """Latencies of one mode, in seconds; ``early``: acted before the crossing, by forecast."""

    seconds: list[float] = field(default_factory=list)
    early: int = 0
    missed: int = 0
    void: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def trials(self) -> int:
        """Those that count."""
        return len(self.seconds) + self.missed

    def quantile(self, share: float) -> float:
        """Nearest rank; what never came counts as for ever."""
        return quantile(self.seconds, share, self.missed)

    def figures(self) -> list[str]:
        """p50, p95, p99 and the longest, in milliseconds."""
        return [milliseconds(self.quantile(share)) for share in (0.50, 0.95, 0.99, 1.0)]

    def notes(self) -> list[str]:
        """What else is to be told of these trials."""
        told = [f"{self.early} before the crossing" if self.early else ""]
        told += [f"{self.missed} never" if self.missed else "", f"{self.void} void" if self.void else ""]
        return [*told, f"took {time.monotonic() - self.began:.0f} s"]


@dataclass
class Verdict:
    """What speaks against the benchmark's claim, a sentence each."""

    budget_seconds: float
    faults: list[str] = field(default_factory=list)

    def judge(self, label: str, tally: Tally, wanted: int, missing: str, *, budgeted: bool = True) -> None:
        """One mode: enough trials, proven to be what its name says, and within its budget."""
        if tally.trials < wanted:
            self.faults.append(f"{label}: only {tally.trials} of {wanted} trials count")
        if missing:
            self.faults.append(f"{label}: {missing}")
        if budgeted and tally.quantile(0.99) > self.budget_seconds:
            self.faults.append(f"{label}: p99 is {milliseconds(tally.quantile(0.99))} ms")

    def judge_control(self, control: Tally) -> None:
        """Without a guard the promise must fail, else the trials with one prove nothing."""
        if control.quantile(0.5) <= self.budget_seconds:
            within = f"{milliseconds(control.quantile(0.5))} ms (p50)"
            self.faults.append(f"{NO_GUARD}: the kernel acted within {within}, so the trials prove nothing")

    def tell(self) -> int:
        """Print it; the exit code."""
        for fault in self.faults:
            sys.stdout.write(f"{fault}\n")
        outcome = "missed" if self.faults else "met"
        sys.stdout.write(f"budget: p99 at most {self.budget_seconds * 1000:.0f} ms: {outcome}\n")
        return int(bool(self.faults))


def quantile(seconds: Sequence[float], share: float, missed: int = 0) -> float:
    """Nearest rank of the sorted ``seconds``, with ``missed`` more that last for ever."""
    ranked = sorted(seconds) + [math.inf] * missed
    return ranked[math.ceil(share * len(ranked)) - 1] if ranked else math.inf


def milliseconds(seconds: float) -> str:
    """``17.2``, or ``never``."""
    return "never" if math.isinf(seconds) else f"{seconds * 1000:.1f}"


class Hog:
    """The spiking program inside a cgroup."""

    def __init__(self, cgroup: MemoryCgroup) -> None:
        version = "1" if cgroup.is_v1 else "2"
        argv = [sys.executable, "-I", "-S", str(_SCRIPT), str(cgroup.path), version, str(cgroup.limit)]
        self.started = cgroup.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(self, line: str) -> None:
        """Send a command; `answer` must follow."""
        self.started.stdin.write(line.encode() + b"\n")
        self.started.stdin.flush()

    def answer(self) -> dict[str, float | None]:
        """Wait for its answer."""
        line = self.started.stdout.readline()
        if not line:
            raise RuntimeError("the hog died: the kernel was quicker than the guard")
        read: dict[str, float | None] = json.loads(line)
        return read

    def do(self, line: str) -> dict[str, float | None]:
        """Send a command and wait for its answer."""
        self.say(line)
        return self.answer()

    def crossed_at(self, line: str) -> float:
        """Send a command that crosses; when it had last been above, for ever if it did not get there."""
        told = self.do(line)
        return (told["above"] or 0.0) if told["below"] else math.inf


@dataclass(frozen=True)
class Place:
    """A cgroup with a server, a hog, a guard, and what is wrong with it."""

    cgroup: MemoryCgroup
    server: FakeServer
    guard: Guard
    hog: Hog
    mode: modes.Mode
    proxy: TcpProxy


@contextlib.contextmanager
def place(name: str, models: Sequence[str], config: str) -> Iterator[Place]:
    """A fresh place in a mode; the guard asks through the proxy, which takes the time of unloads."""
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(MemoryCgroup(LIMIT_BYTES, "latency"))
        server = stack.enter_context(FakeServer(cgroup.join_paths, models))
        proxy = stack.enter_context(TcpProxy(server.port))
        assert proxy.started is not None
        os.setpriority(os.PRIO_PROCESS, proxy.started.pid, WATCHER_NICE)
        env = FRESH_PAGES if name == "hands slowed" else {}
        guard = stack.enter_context(Guard(proxy.url, cgroup=f"/{cgroup.name}", config=config, env=env))
        guard.wait_guarding(server.pid)
        hog = Hog(cgroup)
        stack.callback(hog.started.stop)
        mode = stack.enter_context(modes.entered(name, guard, server))
        stack.enter_context(watching())
        yield Place(cgroup, server, guard, hog, mode, proxy)


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """This thread comes before all others until the context ends."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, WATCHER_NICE)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def wait_until(check: Callable[[], object], seconds: float) -> bool:
    """Look every 5 ms, for so long at most; whether it came true."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def without_guard(trials: int, critical_bytes: int, model: str) -> tuple[Tally, list[str]]:
    """The same crossing with nobody there; the hog never stops. Seconds until the kernel kills somebody."""
    tally, victims = Tally(), {"hog": 0, "runner": 0}
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(MemoryCgroup(LIMIT_BYTES, "latency"))
        server = stack.enter_context(FakeServer(cgroup.join_paths, (model,)))
        stack.enter_context(watching())
        name = model.partition("=")[0]
        for _ in range(trials):
            server.load(name)
            hog = Hog(cgroup)
            hog.do(f"settle {critical_bytes + 16 * MIB} 0.1")
            pids = {"hog": hog.started.pid, "runner": server.runner_pids()[name]}
            crossed_at = hog.crossed_at(f"plunge {critical_bytes}")
            victim = first_death(pids, _KERNEL_SECONDS)
            tally.seconds.append(time.clock_gettime(time.CLOCK_BOOTTIME) - crossed_at)
            victims[victim] += 1
            hog.started.stop()
    return tally, [f"the kernel killed the {who} {count} times" for who, count in victims.items() if count]


def first_death(pids: dict[str, int], seconds: float) -> str:
    """Who of these dies first; TimeoutError when none does."""
    poll, names = select.poll(), {}
    with contextlib.ExitStack() as stack:
        for name, pid in pids.items():
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            poll.register(pidfd, select.POLLIN)
            names[pidfd] = name
        for pidfd, _ in poll.poll(seconds * 1000):
            return names[pidfd]
    raise TimeoutError(f"none of {', '.join(pids)} died within {seconds:.0f} s")


def row(cells: Sequence[str]) -> None:
    """One line of a table, as soon as it is known."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def heading(*more: str) -> None:
    """The table's head; ``more`` columns stand before the notes."""
    cells = ("mode", "trials", *_HEADINGS, *more, "notes")
    row(cells)
    row(["---"] * len(cells))
