"""Page cache as relief, by the installed unit and a real kernel's `memory.reclaim`."""

from collections.abc import Iterator

import pytest

from beds.vm import Vm
from beds.vm_guard import UNIT, configure, events, wait_event

MIB = 1024**2
LIMIT, HELD, FILE = 800, 340, 700
"""MiB: what is left beside what is held is cache, half of it active; the file is larger than that."""
CGROUP = "/sys/fs/cgroup/system.slice/ollama.service"
CONFIG = """
[ollama]
authority = "runners"
[thresholds.container]
soft = "256MiB"
hard = "32MiB"
critical = "16MiB"
grace = "0s"
[policy]
min_reclaim = "64MiB"
"""
HOLD = f"held = bytearray({HELD} * 1024 * 1024); import time; time.sleep(3600)"
SECONDS = 240


@pytest.fixture
def cache_that_is_read_back(vm: Vm) -> Iterator[Vm]:
    """Within Ollama's unit somebody reads a file that does not fit beside what is held, over and over."""
    vm.run(f"systemctl set-property --runtime ollama.service MemoryMax={LIMIT}M")
    vm.run(f"head -c {FILE}M /dev/zero > /root/file; sync", SECONDS)
    inside = f"echo $$ > {CGROUP}/cgroup.procs; exec"
    read = "while :; do cat /root/file > /dev/null; done"
    try:
        for unit, argv in (("holder", ["python3", "-c", HOLD]), ("reader", ["sh", "-c", read])):
            words = " ".join(f"'{word}'" for word in argv)
            vm.write(f"/root/{unit}", f"#!/bin/sh\n{inside} {words}\n")
            vm.run(f"systemd-run -q --unit {unit} -p Delegate=no sh /root/{unit}")
        yield vm
    finally:
        vm.run("pkill -f /root/file; pkill -f bytearray; rm -f /root/file", check=False)
        vm.run("systemctl set-property --runtime ollama.service MemoryMax=infinity")


def test_page_cache_that_is_read_back_is_reclaimed_where_it_has_the_right_to_it(
    cache_that_is_read_back: Vm,
) -> None:
    """Without the drop-in it can't be: the same machine, and nothing of the kind is tried."""
    vm = cache_that_is_read_back
    since = configure(vm, CONFIG)
    wait_event(vm, "level.changed", since, SECONDS)
    assert not events(vm, "memory.reclaimed", since)
    vm.run(
        f"install -D -m 644 -t /etc/systemd/system/{UNIT}.d"
        " /usr/share/ollama-guard/drop-ins/dac-override.conf && systemctl daemon-reload"
    )
    before = vm.says("systemctl show -P MainPID ollama")
    configure(vm, CONFIG)
    said = wait_event(vm, "memory.reclaimed", since, SECONDS)
    print(said["MESSAGE"])  # noqa: T201 - shown with -s
    assert said["OLLAMA_GUARD_OUTCOME"] == "done"
    assert int(said["OLLAMA_GUARD_FREED_BYTES"]) >= 64 * MIB
    assert vm.says("systemctl show -P MainPID ollama") == before
    assert not events(vm, "action.failed", since)
