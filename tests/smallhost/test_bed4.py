"""Bed 4 is what it claims to be: a small machine that its programs and the kernel believe in."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.hog import Hog
from beds.process import alive
from beds.real_ollama import RealOllama
from beds.smallhost import SmallHost

MIB = 1 << 20
GIB = 1 << 30

SmallHosts = Callable[[int], SmallHost]


def test_programs_inside_see_the_small_memory_and_no_swap(small_host: SmallHosts) -> None:
    host = small_host(4 * GIB)
    memory, swap = host.run(["free", "-b"]).splitlines()[1:3]
    assert int(memory.split()[1]) == 4 * GIB
    assert swap.split()[1:] == ["0", "0", "0"]
    assert host.meminfo()["MemTotal"] == 4 * GIB
    assert host.run(["ps", "-e", "-o", "pid="]).split()[0] == "1"


def test_memory_taken_inside_is_missing_inside(small_host: SmallHosts) -> None:
    host = small_host(1 * GIB)
    before = host.available()
    with Hog(host.popen) as hog:
        hog.grow(400 * MIB, 2 * GIB)
        assert hog.wait(20)
        assert 390 * MIB < before - host.available() < 450 * MIB


def test_the_kernel_kills_inside_when_the_small_memory_is_full(small_host: SmallHosts) -> None:
    host = small_host(512 * MIB)
    with Hog(host.popen) as hog:
        assert host.oom_kills() == 0
        hog.grow(1 * GIB, 2 * GIB)
        assert not hog.wait(20)
        assert hog.exit_code == -9
    assert host.oom_kills() == 1


def test_pressure_inside_is_the_small_hosts_own(small_host: SmallHosts) -> None:
    host = small_host(512 * MIB)
    if host.cgroup.pressure_path is None:
        pytest.skip("smallhost: this kernel keeps no pressure per cgroup")
    inside = host.run(["cat", "/proc/pressure/memory"])
    assert inside == host.cgroup.pressure_path.read_text()
    assert inside.startswith("some avg10=0.00")


def test_a_real_ollama_inside_answers_outside(
    small_host: SmallHosts, real_ollama: Callable[..., RealOllama]
) -> None:
    host = small_host(4 * GIB)
    server = real_ollama(launcher=host.popen)
    server.load("tiny")
    runner = server.runner("tiny")
    assert runner is not None
    assert {server.pid, runner} <= set(host.cgroup.pids())
    assert host.outer_pid(host.inner_pid(runner)) == runner
    assert server.runner_rss_bytes("tiny") > 150 * MIB
    assert host.available() < 4 * GIB - 150 * MIB


def test_switching_off_leaves_nothing_behind(small_host: SmallHosts) -> None:
    host = small_host(256 * MIB)
    inside = host.popen(["sleep", "1000"])
    assert _is_mounted(host.lxcfs)
    host.__exit__()
    assert inside.wait(5) != 0
    assert not alive(inside.pid)
    assert not host.cgroup.path.exists()
    assert not _is_mounted(host.lxcfs)


def test_a_program_that_is_not_there_is_an_error(small_host: SmallHosts) -> None:
    host = small_host(256 * MIB)
    with pytest.raises(subprocess.CalledProcessError):
        host.run(["no-such-program"])


def _is_mounted(path: Path) -> bool:
    return f" {path} fuse.lxcfs " in Path("/proc/self/mounts").read_text()
