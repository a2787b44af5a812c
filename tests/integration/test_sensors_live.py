"""The sensors over this machine's own /proc and cgroups: real processes, births, deaths, orphans."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.freezer import Freezer
from beds.thrash import Thrash
from ollama_guard.core.model import ApiReading, RunnerReading, ServerReading, Snapshot
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.sentinel.selftest import has_capability
from ollama_guard.sentinel.sensors import Sensors
from ollama_guard.sentinel.sensors.psi import Trigger
from ollama_guard.sentinel.sensors.watches import Watches

PATIENCE_SECONDS = 10.0
# The sensors see the whole machine: runners of the same test in another process have another blob.
DIGEST = f"{os.getpid():064x}"
MIB = 1024**2
TRACER = """
import ctypes, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
seize = 0x4206  # PTRACE_SEIZE: attaches without stopping it
if libc.ptrace(seize, int(sys.argv[1]), None, None) == 0:
    print("attached", flush=True)
signal.pause()
"""


# What the sensors may do here, as the start-up self-test says it.
FACTS = """
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.sensors import Sensors
sensors = Sensors(Policy())
for fact in sensors.capabilities():
    print(fact.name, fact.ok, fact.sentence)
sensors.close()
"""
CAP_SETPCAP, CAP_SYS_RESOURCE = 8, 24


class Machine:
    """A shell that goes by the name and command line of `ollama serve`, with real children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        blobs = self.models / "blobs"
        blobs.mkdir(parents=True)
        self.blob = blobs / f"sha256-{DIGEST}"
        self.blob.write_bytes(b"x" * 4096)
        self.program = folder / "ollama"
        self.program.symlink_to("/bin/bash")
        os.mkfifo(folder / "orders")
        os.mkfifo(folder / "never")
        command = f'"{self.program}" runner --model "{self.blob}" --ctx-size 2048 --port 5 &\n'
        (folder / "serve").write_text(f"exec 4<>orders\nwhile read -r -u 4 order; do\n{command}done\n")
        (folder / "runner").write_text("exec 5<>never\nread -r -u 5\n")
        self.started: subprocess.Popen[bytes] | None = None

    def serve(self) -> int:
        """Start the server; its PID."""
        self.started = subprocess.Popen([str(self.program), "serve"], cwd=self.folder, start_new_session=True)
        return self.started.pid

    def load(self) -> None:
        """Have the server start a runner."""
        with (self.folder / "orders").open("r+b", buffering=0) as orders:
            orders.write(b"load\n")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not self.runners() and time.monotonic() < deadline:
                time.sleep(0.01)

    def runners(self) -> list[int]:
        """PIDs of the shells that say `runner`, whoever their parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            if argv[:2] == [str(self.program), "runner"]:
                found.append(process.pid)
        return found

    def stop(self) -> None:
        """End everything that was started."""
        for pid in self.runners():
            os.kill(pid, signal.SIGKILL)
        if self.started is not None:
            self.started.kill()
            self.started.wait()


class Guarded:
    """Sensors that are waited on as the loop does it: by epoll, else every 100 ms."""

    def __init__(self, policy: Policy) -> None:
        self.sensors = Sensors(policy)

    def until(self, server_pid: int | None, runners: int, *, proven: bool = True) -> Snapshot:
        """Look until this server has so many runners."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            snapshot = self.look()
            mine = [r for r in snapshot.runners if r.proven is proven and r.blob == f"sha256:{DIGEST}"]
            served = server_pid is None or server_pid in {server.pid for server in snapshot.servers}
            if served and len(mine) == runners:
                return snapshot
            self.wait(0.1)
        raise AssertionError(f"never saw {runners} runners of {server_pid}: {snapshot}")

    def look(self) -> Snapshot:
        """One full reading."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return self.sensors.sense(now, time.time(), ApiReading(), (), (), hands_alive=True, hands_reason="")

    def wait(self, seconds: float) -> bool:
        """Sleep on the sensors' descriptors; whether one of them woke us."""
        with select.epoll() as loop:
            for fd, events in self.sensors.fds().items():
                loop.register(fd, events)
            woken = loop.poll(seconds)
            for fd, events in woken:
                self.sensors.on_ready(fd, events)
        return bool(woken)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.stop()


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    guarded = Guarded(Policy())
    yield guarded
    guarded.sensors.close()


def mine(snapshot: Snapshot) -> RunnerReading:
    """The one runner of the test's own machine."""
    (runner,) = [r for r in snapshot.runners if r.blob == f"sha256:{DIGEST}"]
    return runner


def test_a_real_birth_is_proven_and_dated_in_boottime(machine: Machine, guarded: Guarded) -> None:
    server = machine.serve()
    guarded.until(server, 0)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    machine.load()
    snapshot = guarded.until(server, 1)
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    runner = mine(snapshot)
    (pid,) = machine.runners()
    assert (runner.pid, runner.server_pid, runner.context_tokens) == (pid, server, 2048)
    assert before - 0.02 <= runner.born_at <= after
    assert (runner.anon_bytes or 0) > 100_000
    deadline = time.monotonic() + PATIENCE_SECONDS
    while runner.blob_bytes is None and time.monotonic() < deadline:
        guarded.wait(0.05)
        runner = mine(guarded.look())
    assert runner.blob_bytes == 4096
    assert guarded.sensors.still_the_same(pid, runner) == ""


def test_a_death_wakes_the_loop_by_itself(machine: Machine, guarded: Guarded) -> None:
    server = machine.serve()
    machine.load()
    guarded.until(server, 1)
    while guarded.wait(0.05):  # answers that are still under way
        guarded.look()
    (pid,) = machine.runners()
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    assert guarded.wait(5.0)
    assert time.monotonic() - started < 1.0
    guarded.until(server, 0)


def test_a_killed_server_leaves_a_proven_orphan_and_its_successor_is_found(
    machine: Machine, guarded: Guarded
) -> None:
    server = machine.serve()
    machine.load()
    before = mine(guarded.until(server, 1))
    assert machine.started is not None
    machine.started.kill()
    machine.started.wait()
    deadline = time.monotonic() + PATIENCE_SECONDS
    orphan = before
    while orphan.server_pid is not None and time.monotonic() < deadline:
        guarded.wait(0.05)
        orphan = mine(guarded.look())
    assert (orphan.key, orphan.proven, orphan.server_pid) == (before.key, True, None)
    assert guarded.sensors.still_the_same(orphan.pid, orphan) == ""
    started = time.monotonic()
    again = machine.serve()
    guarded.until(again, 1)
    assert time.monotonic() - started < 2.0


def test_another_users_server_is_left_alone(machine: Machine) -> None:
    guarded = Guarded(Policy(ollama=OllamaPolicy(user_id=os.getuid() + 1)))
    try:
        server = machine.serve()
        for _ in range(5):
            assert server not in {known.pid for known in guarded.look().servers}
            guarded.wait(0.2)
    finally:
        guarded.sensors.close()


def test_the_host_is_read_as_psutil_reads_it(guarded: Guarded) -> None:
    host = guarded.look().domains[0]
    memory = psutil.virtual_memory()
    assert host.reason == ""
    assert host.capacity_bytes == memory.total
    assert host.available_bytes == pytest.approx(memory.available, rel=0.1)


def test_a_memory_limit_is_found_with_its_trigger_and_its_removal_never_spins(
    machine: Machine, guarded: Guarded
) -> None:
    limit = 300 * MIB
    try:
        cgroup = MemoryCgroup(limit, "sensors")
    except BedUnavailable as reason:
        pytest.skip(str(reason))
    with cgroup:
        server = machine.serve()
        cgroup.add(server)
        machine.load()
        snapshot = guarded.until(server, 1)
        (domain,) = [d for d in snapshot.domains if d.path == str(cgroup.path)]
        assert domain.capacity_bytes == limit
        assert 0 < (domain.available_bytes or 0) <= limit
        assert mine(snapshot).domains == ("host", domain.name)
        assert domain.oom_kills == 0
        machine.stop()
    guarded.until(None, 0)
    wakes = 0
    for _ in range(200):
        wakes += guarded.wait(0.0)
        guarded.look()  # each wake has one, which takes what made it ready
    assert wakes < 20
    assert str(cgroup.path) not in {d.path for d in guarded.look().domains}


@pytest.mark.parametrize(("held", "seconds"), [(False, 2.0), (True, 0.5)])
def test_pressure_wakes_it_over_the_shortest_window_that_its_rights_allow_and_it_says_so(
    *, held: bool, seconds: float
) -> None:
    """Windows below 2 s need CAP_SYS_RESOURCE, which the unit does not give."""
    if not Path("/proc/pressure/memory").exists():
        pytest.skip("this kernel shows no pressure (PSI)")
    if held and not has_capability(CAP_SYS_RESOURCE):
        pytest.skip("CAP_SYS_RESOURCE is not held here")
    may_drop = has_capability(CAP_SETPCAP) and not held
    bound = ["setpriv", "--bounding-set", "-sys_resource"] if may_drop else []
    said = subprocess.run(
        [*bound, sys.executable, "-c", FACTS], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    if not held and "trigger False" in said and "not permitted" in said:
        pytest.skip("this kernel has no trigger at all for those without CAP_SYS_RESOURCE (before 6.5)")
    assert f"trigger True pressure wakes the guard, over a window of {seconds:g} s\n" in said


def test_a_trigger_fires_while_its_cgroup_stalls_and_not_while_it_is_calm() -> None:
    """The kernel's own word, as it wakes the guard; an empty cgroup of the same kind stays silent."""
    waiting = select.poll()
    try:
        with Thrash() as thrash, MemoryCgroup(100 * MIB, "calm") as calm:
            triggers = [Trigger(str(cgroup.pressure_path)) for cgroup in (thrash.cgroup, calm)]
            for trigger in triggers:
                assert trigger.tend(0.0), trigger.opened.reason
                waiting.register(trigger.fd, select.POLLPRI)
            stalls, _ = (trigger.fd for trigger in triggers)
            thrash.cgroup.set_limit(thrash.cgroup.limit // 2)
            for _ in range(2):
                assert waiting.poll(30_000) == [(stalls, select.POLLPRI)]
            for trigger in triggers:
                trigger.close()
    except BedUnavailable as reason:
        pytest.skip(str(reason))


def test_a_trigger_whose_cgroup_went_away_is_closed_and_opened_again_with_back_off() -> None:
    """Left in an epoll set it reports EPOLLERR for ever."""
    try:
        cgroup = MemoryCgroup(100 * MIB, "trigger")
        with cgroup:
            if cgroup.pressure_path is None:
                pytest.skip("no PSI per cgroup here")
            trigger = Trigger(str(cgroup.pressure_path))
            watches = Watches()
            assert trigger.tend(0.0), trigger.opened.reason
            watches.add_trigger(trigger, lambda: 0.0)
    except BedUnavailable as reason:
        pytest.skip(str(reason))
    waiting = select.poll()
    waiting.register(watches.fileno(), select.POLLIN)
    try:
        assert waiting.poll(5000)
        watches.serve()
        assert trigger.fd == -1
        assert "went away" in trigger.opened.reason
        assert not waiting.poll(100)
        assert not trigger.tend(0.5)
        assert not trigger.tend(1.5)
        assert "No such file" in trigger.opened.reason
    finally:
        trigger.close()
        watches.close()


def test_a_debugger_on_the_server_is_seen(machine: Machine, guarded: Guarded) -> None:
    server = machine.serve()
    guarded.until(server, 0)
    tracer = subprocess.Popen([sys.executable, "-c", TRACER, str(server)], stdout=subprocess.PIPE)
    try:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"attached\n"
        held_by(guarded, server, lambda reading: reading.traced)
    finally:
        tracer.kill()
        tracer.communicate()
    held_by(guarded, server, lambda reading: not reading.traced)


def test_a_server_in_a_frozen_cgroup_is_seen(machine: Machine, guarded: Guarded, freezer: Freezer) -> None:
    """What `docker pause` does, in whichever tree has a freezer here."""
    server = machine.serve()
    guarded.until(server, 0)
    freezer.take(server)
    assert not held_by(guarded, server, lambda _: True).frozen
    freezer.freeze()
    held_by(guarded, server, lambda reading: reading.frozen)
    freezer.thaw()
    held_by(guarded, server, lambda reading: not reading.frozen)


def held_by(guarded: Guarded, pid: int, fits: Callable[[ServerReading], bool]) -> ServerReading:
    """The reading of a server once it is so; the look at it is up to a second old."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        server = next(server for server in guarded.look().servers if server.pid == pid)
        if fits(server):
            return server
        assert time.monotonic() < deadline, server
        guarded.wait(0.1)
