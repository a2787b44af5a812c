"""The installed unit under systemd: ready, watched, reloaded, and back from everything but a bad file."""

import pytest

from beds.vm import Vm
from beds.vm_guard import (
    READY_SECONDS,
    UNIT,
    cursor,
    events,
    main_pid,
    restarts,
    show,
    wait_active,
)

WATCHDOG_SECONDS = 30
RELOAD_SECONDS = 240


def test_it_is_ready_as_its_own_user_with_one_right(vm: Vm) -> None:
    pid = wait_active(vm)
    assert vm.says(f"ps -o user= -p {pid}") == "ollama-guard"
    rights = dict(line.split(":\t") for line in vm.says(f"grep ^Cap /proc/{pid}/status").splitlines())
    kill_alone = f"{1 << 5:016x}"
    assert (rights["CapEff"], rights["CapBnd"]) == (kill_alone, kill_alone)
    assert show(vm, "StatusText")["StatusText"]
    assert vm.says("ollama-guard healthcheck").startswith("healthy: ")


def test_its_sockets_are_for_their_groups(vm: Vm) -> None:
    wait_active(vm)
    vm.wait("test -S /run/ollama-guard/control.sock", READY_SECONDS, "the sockets are there")
    shown = vm.says("stat -c '%a %G' /run/ollama-guard/status.sock /run/ollama-guard/control.sock")
    assert shown.splitlines() == ["660 ollama-guard", "660 ollama-guard-admin"]


def test_what_it_found_out_about_itself_stands_in_native_fields(vm: Vm) -> None:
    wait_active(vm)
    since = cursor(vm)
    vm.run(f"systemctl restart {UNIT}", READY_SECONDS)
    tested = {event["OLLAMA_GUARD_SUBJECT"]: event for event in events(vm, "guard.tested", since)}
    for subject in ("sd_notify", "oom_score_adj", "mlockall", "kill", "kill_path", "proc"):
        assert tested[subject]["OLLAMA_GUARD_MAY"] == "true", tested[subject]["MESSAGE"]
    (started,) = events(vm, "guard.started", since)
    assert started["OLLAMA_GUARD_PID"] == str(main_pid(vm))
    assert started["_SYSTEMD_UNIT"] == UNIT


def test_mrelease_works_under_its_own_filter_and_not_without_that_line(vm: Vm) -> None:
    wait_active(vm)

    def kill_path() -> str:
        since = cursor(vm)
        vm.run(f"systemctl restart {UNIT}", READY_SECONDS)
        found = [e for e in events(vm, "guard.tested", since) if e["OLLAMA_GUARD_SUBJECT"] == "kill_path"]
        return str(found[-1]["MESSAGE"])

    assert "process_mrelease is allowed" in kill_path()
    vm.write(f"/etc/systemd/system/{UNIT}.d/no.conf", "[Service]\nSystemCallFilter=~process_mrelease\n")
    vm.run("systemctl daemon-reload")
    assert "process_mrelease is refused" in kill_path()


def test_a_crash_is_restarted(vm: Vm) -> None:
    pid, before = wait_active(vm), restarts(vm)
    vm.run(f"kill -9 {pid}")
    assert wait_active(vm, other_than=pid) not in (0, pid)
    assert restarts(vm) == before + 1


def test_a_dead_tick_is_caught_by_the_watchdog(vm: Vm) -> None:
    pid, before, since = wait_active(vm), restarts(vm), cursor(vm)
    vm.run(f"kill -STOP {pid}")
    vm.eventually(lambda: restarts(vm) == before + 1, WATCHDOG_SECONDS + READY_SECONDS, "the watchdog bites")
    wait_active(vm, other_than=pid)
    assert "Watchdog timeout" in vm.says(f"journalctl -q --cursor '{since}' -u {UNIT}")


def reloaded(vm: Vm, content: str, name: str, words: str) -> None:
    """Until a reload of this file ends in such an event; its 10 s may be too few in the emulator."""
    vm.write("/etc/ollama-guard/ollama-guard.toml", content)
    since = cursor(vm)

    def told() -> bool:
        vm.run(f"systemctl reload {UNIT} && sleep 15")
        return any(words in event["MESSAGE"] for event in events(vm, name, since))

    vm.eventually(told, RELOAD_SECONDS, f"{name}: {words}")


def test_a_reload_takes_a_good_file_over_and_keeps_the_old_one_for_a_bad_one(vm: Vm) -> None:
    pid = wait_active(vm)
    reloaded(vm, '[policy]\nmode = "observe"\n', "config.reloaded", "read again")
    assert '"mode": "observe"' in vm.says("cat /var/lib/ollama-guard/public/status.json")
    reloaded(vm, '[policy]\nmode = "obsevre"\n', "config.rejected", "observe")
    assert '"mode": "observe"' in vm.says("cat /var/lib/ollama-guard/public/status.json")
    assert main_pid(vm) == pid


def test_a_bad_file_without_a_good_one_is_78_and_not_started_again(vm: Vm) -> None:
    wait_active(vm)
    vm.run(f"systemctl stop {UNIT}", READY_SECONDS)
    vm.run("mkdir -p /tmp/kept && mv /var/lib/ollama-guard/* /tmp/kept/")
    vm.write("/etc/ollama-guard/ollama-guard.toml", "[polcy]\n")
    vm.run(f"systemctl start {UNIT}", READY_SECONDS, check=False)
    vm.wait(f"systemctl is-failed -q {UNIT}", READY_SECONDS, "it has failed for good")
    shown = show(vm, "ExecMainStatus", "NRestarts", "SubState")
    assert (shown["ExecMainStatus"], shown["SubState"]) == ("78", "failed")
    before = shown["NRestarts"]
    vm.run("sleep 5")
    assert show(vm, "NRestarts", "SubState") == {"NRestarts": before, "SubState": "failed"}
    vm.write("/etc/ollama-guard/ollama-guard.toml", "")
    vm.run(f"systemctl reset-failed {UNIT}")


@pytest.mark.parametrize(
    ("unit", "verb", "answer"),
    [
        ("ollama.service", "restart", "refused"),
        ("ollama.service", "stop", "allowed"),
        ("ollama.service", "start", "allowed"),
        ("ollama.service", "kill", "allowed"),
        ("ollama.service", "set-property", "allowed"),
        ("ollama.service", "freeze", "refused"),
        ("ssh.service", "restart", "refused"),
        ("ssh.service", "kill", "refused"),
    ],
)
def test_its_user_may_drive_ollamas_unit_and_no_other(vm: Vm, unit: str, verb: str, answer: str) -> None:
    words = {"kill": f"kill -s CONT {unit}", "set-property": f"set-property --runtime {unit} MemoryHigh=1G"}
    command = f"systemctl --no-ask-password {words.get(verb, f'{verb} {unit}')}"
    done = vm.run(f"runuser -u ollama-guard -- {command}", 120, check=False)
    assert ("allowed" if done.returncode == 0 else "refused") == answer, done.stderr
    if answer == "refused":
        assert "authentication required" in done.stderr.lower()


def test_its_user_may_not_reload_systemd_or_start_a_unit_of_its_own(vm: Vm) -> None:
    for command in ("systemctl --no-ask-password daemon-reload", "systemd-run --no-ask-password true"):
        assert vm.run(f"runuser -u ollama-guard -- {command}", check=False).returncode != 0


HOOK = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
HTTPServer(("192.0.2.7", 8099), Hook).serve_forever()
"""
"""A webhook at an address of this very machine that is not loopback."""


def test_a_webhook_beyond_loopback_is_cut_off_until_the_drop_in_lets_it_out(vm: Vm) -> None:
    vm.run("ip address replace 192.0.2.7/32 dev lo")
    vm.write("/root/hook.py", HOOK)
    vm.run("systemctl stop hook; systemd-run -q --collect --unit=hook python3 /root/hook.py")
    vm.wait("curl -fs -m 5 -d x http://192.0.2.7:8099/", 120, "the webhook answers")
    config = '[notify]\nwebhook = "http://192.0.2.7:8099/s3cret"\ntimeout = "20s"\n'
    vm.write("/etc/ollama-guard/ollama-guard.toml", config)
    vm.run(f"systemctl restart {UNIT}", READY_SECONDS)

    def told() -> str:
        done = vm.run("ollama-guard notify test", 300, check=False)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    vm.eventually(lambda: "drop-in network.conf" in told(), 300, "it is said what is missing")
    vm.run(
        f"install -D -m 644 -t /etc/systemd/system/{UNIT}.d /usr/share/ollama-guard/drop-ins/network.conf"
        f" && systemctl daemon-reload && systemctl restart {UNIT}",
        READY_SECONDS,
    )
    vm.eventually(lambda: told().startswith("0 ") and "no guard runs" not in told(), 300, "it is delivered")
    vm.run("systemctl stop hook; ip address del 192.0.2.7/32 dev lo")
