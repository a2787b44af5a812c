"""What systemd and the journal say of the guard's unit in a virtual machine."""

import json
from typing import Any

from beds.vm import Vm

UNIT = "ollama-guard.service"
SERVER = """
[ollama]
authority = "server"
poll = "5s"
unresponsive_after = "20s"
request_timeout = "15s"
[playbook.freeze]
stuck_after = "10s"
young_for = "0s"
quiet = "{quiet}"
"""
"""For its configuration file: a frozen Ollama is recovered as soon as that is sure on a slow machine."""
READY_SECONDS = 180
"""A second on a machine at rest; the emulator starts Python in ten."""


def show(vm: Vm, *properties: str) -> dict[str, str]:
    """Properties of the guard's unit."""
    wanted = " ".join(f"-p {name}" for name in properties)
    return dict(line.split("=", 1) for line in vm.says(f"systemctl show {UNIT} {wanted}").splitlines())


def main_pid(vm: Vm) -> int:
    """The sentinel's PID; 0 when there is none."""
    return int(show(vm, "MainPID")["MainPID"])


def restarts(vm: Vm) -> int:
    """How often systemd has started it again by itself."""
    return int(show(vm, "NRestarts")["NRestarts"])


def wait_active(vm: Vm, other_than: int = 0) -> int:
    """Until it is active (READY=1 was sent) with another PID than that one; its PID."""
    another = f"! systemctl show {UNIT} -p MainPID | grep -qx MainPID={other_than}"
    vm.wait(f"systemctl is-active -q {UNIT} && {another}", READY_SECONDS, "the guard is ready")
    return main_pid(vm)


def cursor(vm: Vm) -> str:
    """A mark in the journal, to ask later what came after it."""
    return vm.says("journalctl --sync; journalctl -n 0 --show-cursor -q | sed -n 's/^-- cursor: //p'")


def events(vm: Vm, name: str, since: str = "") -> list[dict[str, Any]]:
    """The guard's events of one name, each with its native fields, as a person asks for them."""
    # Not --after-cursor: with a filter, that of systemd 252 skips the first entry that matches.
    after = f"--cursor '{since}'" if since else ""
    # What was sent to journald a moment ago may still be on its way to the disk.
    text = vm.says(f"journalctl --sync; journalctl -q -u {UNIT} {after} -o json OLLAMA_GUARD_EVENT={name}")
    found = [json.loads(line) for line in text.splitlines()]
    return [event for event in found if event["__CURSOR"] != since]


def wait_event(vm: Vm, name: str, since: str, seconds: float = 120) -> dict[str, Any]:
    """Until such an event is in the journal; the first one."""
    vm.eventually(lambda: bool(events(vm, name, since)), seconds, f"the event {name}")
    return events(vm, name, since)[0]


def configure(vm: Vm, config: str) -> str:
    """Start it anew with this file, as on its first day, until it has found Ollama; a mark of before that."""
    vm.write("/etc/ollama-guard/ollama-guard.toml", config)
    vm.run(f"systemctl stop {UNIT}; rm -rf /var/lib/ollama-guard/* /run/ollama-guard/*", READY_SECONDS)
    since = cursor(vm)
    vm.run(f"systemctl start {UNIT}", READY_SECONDS)
    wait_active(vm)
    wait_event(vm, "runtime.found", since, 300)
    vm.eventually(lambda: "answers" in str(events(vm, "ollama.found", since)), 300, "it knows Ollama")
    return since


def freeze_and(vm: Vm, command: str, step: str, seconds: float) -> None:
    """Stop Ollama's server by a signal; run a command there the moment a step of the recovery is decided on.

    The command may be the end of the machine: how it ends does not matter.
    """
    follow = f"journalctl -q -f -n 0 -o cat -u {UNIT}"
    script = f"""
    (grep -m 1 -q 'freeze: {step} ' < <({follow}); {command}) & watch=$!
    sleep 5
    kill -STOP $(systemctl show -P MainPID ollama)
    wait $watch
    """
    vm.run(script, seconds, check=False)
