"""A real kill by the installed unit, under its own filter and with its one right."""

import json
import time
from pathlib import Path

from beds.vm import Vm
from beds.vm_guard import (
    READY_SECONDS,
    SERVER,
    UNIT,
    configure,
    cursor,
    events,
    restarts,
    wait_active,
    wait_event,
)

RESCUES = 100
POLKIT = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
"""By which D-Bus starts it."""
CGROUP = "/sys/fs/cgroup/system.slice/ollama.service"
LIMIT_MIB, HOT_MIB, LARGE_MIB = 400, 250, 500
HOT, LARGE = "/srv/hot", "/srv/large"
READER = f"echo $$$$ > {CGROUP}/cgroup.procs; while :; do cat {HOT} {HOT} {HOT} {LARGE} > /dev/null; done"
"""Somebody in Ollama's cgroup who reads one file again and again, and another that leaves no room for it.

So page cache that was evicted is read back, and counts as used. (systemd makes $ of $$.)
"""


def ask(vm: Vm, model: str) -> str:
    """What a client that wants a model hears."""
    body = json.dumps({"model": model, "prompt": "hello", "stream": False, "keep_alive": "1h"})
    return vm.says(f"curl -s -m 60 http://127.0.0.1:11434/api/generate -d '{body}'", 90)


def test_loads_that_can_not_fit_are_killed_and_the_server_lives(vm: Vm) -> None:
    """Each is another user's process. After two the model is condemned, and the same news gets rarer."""
    wait_active(vm)
    vm.eventually(lambda: "answers" in str(events(vm, "ollama.found")), 120, "the guard knows Ollama")
    assert "done" in ask(vm, "small")
    before, since, server = restarts(vm), cursor(vm), vm.says("systemctl show -p MainPID ollama")
    began = time.monotonic()
    for number in range(RESCUES):
        assert "signal: killed" in ask(vm, "huge"), number
    took = time.monotonic() - began
    wait_event(vm, "blob.condemned", since)
    aborted = events(vm, "load.aborted", since)
    print(f"{RESCUES} rescues in {took:.0f} s; the first: {aborted[0]['MESSAGE']}")  # noqa: T201
    assert all(event["OLLAMA_GUARD_OUTCOME"] == "done" for event in aborted)
    assert restarts(vm) == before, "the guard itself was never restarted"
    assert vm.says("systemctl show -p MainPID ollama") == server, "nor was Ollama"
    assert '"small:latest"' in vm.says("curl -s http://127.0.0.1:11434/api/ps")
    assert vm.says("journalctl -q -k | grep -ci 'out of memory' || true") == "0"


def test_pressure_wakes_it_over_short_windows_where_it_has_the_right_to_them(vm: Vm) -> None:
    """CAP_SYS_RESOURCE by the drop-in; with the unit as it is the kernel grants whole two seconds."""

    def window() -> str:
        since = cursor(vm)
        vm.run(f"systemctl restart {UNIT}", READY_SECONDS)
        said = [event["MESSAGE"] for event in events(vm, "guard.tested", since)]
        return next(sentence for sentence in said if sentence.startswith("pressure wakes the guard"))

    assert window() == "pressure wakes the guard, over a window of 2 s"
    vm.run(
        f"install -D -m 644 -t /etc/systemd/system/{UNIT}.d /usr/share/ollama-guard/drop-ins/resource.conf"
        " && systemctl daemon-reload"
    )
    assert window() == "pressure wakes the guard, over a window of 0.5 s"


def test_page_cache_that_counts_as_used_is_asked_back_from_the_kernel(vm: Vm) -> None:
    """By the drop-in; the unit as it is may not write there, and says nothing of page cache."""
    vm.run(
        f"install -D -m 644 -t /etc/systemd/system/{UNIT}.d"
        " /usr/share/ollama-guard/drop-ins/dac-override.conf && systemctl daemon-reload"
    )
    for path, size in ((HOT, HOT_MIB), (LARGE, LARGE_MIB)):
        vm.run(f"dd if=/dev/zero of={path} bs=1M count={size} status=none", 300)
    vm.run("sync; echo 1 > /proc/sys/vm/drop_caches")  # else they are in memory at nobody's cost
    vm.run(f"systemctl set-property --runtime ollama MemoryMax={LIMIT_MIB}M")
    since = configure(vm, '[thresholds.container]\ngrace = "1s"\n')
    vm.run(f"systemd-run -q --collect --unit=reader bash -c '{READER}'")
    try:
        reclaimed = wait_event(vm, "memory.reclaimed", since, 300)
    finally:
        # The reader left its unit's cgroup; the bracket spares this very shell.
        vm.run("pkill -f '[/]srv/large'", check=False)
        vm.run(f"rm {HOT} {LARGE}")
        vm.run("systemctl set-property --runtime ollama MemoryMax=infinity")
    assert reclaimed["OLLAMA_GUARD_OUTCOME"] == "done", reclaimed["MESSAGE"]
    assert int(reclaimed["OLLAMA_GUARD_FREED_BYTES"]) > 1 << 20
    print(reclaimed["MESSAGE"])  # noqa: T201 - shown with -s


def test_without_polkit_it_says_what_it_can_not_do_and_frees_memory_all_the_same(vm: Vm) -> None:
    vm.run(f"systemctl stop polkit; mv {POLKIT} /root/ && systemctl reload dbus")
    try:
        since = configure(vm, SERVER.format(quiet="1h"))
        (found,) = events(vm, "runtime.found", since)
        assert "polkit does not let this user stop, start or limit ollama.service" in found["MESSAGE"]
        assert "signal: killed" in ask(vm, "huge")
        assert wait_event(vm, "load.aborted", since)["OLLAMA_GUARD_OUTCOME"] == "done"
    finally:
        vm.run(f"mv /root/{Path(POLKIT).name} {POLKIT} && systemctl reload dbus")
