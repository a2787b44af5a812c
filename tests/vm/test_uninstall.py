"""Upgrade, removal and purge of the package."""

from beds.vm import Vm
from beds.vm_guard import SERVER, UNIT, configure, freeze_and, wait_active

INSTALL_SECONDS = 900
EVERYWHERE = (
    "find / -xdev -iname '*ollama*guard*' -not -path '/proc/*' -not -path '/usr/local/lib/fake-ollama/*' "
)


def traces(vm: Vm) -> set[str]:
    """What on the disk is called after the guard, dpkg's own notes and the journal left out."""
    found = vm.says(EVERYWHERE + "-not -path '/var/lib/dpkg/*' -not -path '/tmp/*' | sort").splitlines()
    return set(found)


def test_an_upgrade_keeps_the_owners_file_and_comes_back_running(vm: Vm) -> None:
    pid = wait_active(vm)
    vm.write("/etc/ollama-guard/ollama-guard.toml", "# mine\n")
    vm.run("dpkg -i /mnt/host/ollama-guard.deb", INSTALL_SECONDS)
    assert vm.says("cat /etc/ollama-guard/ollama-guard.toml") == "# mine"
    assert wait_active(vm, other_than=pid)


def test_a_removal_in_the_middle_of_a_recovery_leaves_ollama_serving_and_without_limits(vm: Vm) -> None:
    configure(vm, SERVER.format(quiet="1h"))
    before = vm.says("systemctl show -P MainPID ollama")
    freeze_and(vm, "dpkg -r ollama-guard > /root/removal 2>&1", "stop", INSTALL_SECONDS)
    print(vm.says("cat /root/removal"))  # noqa: T201 - shown with -s
    assert vm.run("test -e /opt/ollama-guard", check=False).returncode != 0
    vm.wait("curl -fs -m 5 http://127.0.0.1:11434/api/version", 120, "Ollama answers")
    assert vm.says("systemctl show -P MainPID ollama") not in ("0", before)
    assert vm.says("systemctl show -P MemoryMax ollama") == "infinity"
    assert vm.says("grep -v ^# /var/lib/ollama-guard/env/ollama.env") == ""


def test_removal_leaves_the_configuration_and_what_it_learnt_alone(vm: Vm) -> None:
    wait_active(vm)
    server = vm.says("systemctl show -p MainPID ollama")
    vm.run("dpkg -r ollama-guard", INSTALL_SECONDS)
    left = traces(vm)
    assert {
        path for path in left if not path.startswith(("/etc/ollama-guard", "/var/lib/ollama-guard"))
    } == set()
    assert "/etc/ollama-guard/ollama-guard.toml" in left
    assert vm.says("ls -A /opt") == ""
    assert vm.says(f"systemctl show -p LoadState {UNIT}") == "LoadState=not-found"
    assert vm.says("systemctl show -p MainPID ollama") == server, "Ollama does not notice"
    assert vm.says("pgrep -u ollama-guard") == ""


def test_purging_leaves_nothing(vm: Vm) -> None:
    wait_active(vm)
    vm.run("dpkg -P ollama-guard", INSTALL_SECONDS)
    assert traces(vm) == set()
    assert vm.run("getent passwd ollama-guard", check=False).returncode != 0
    assert vm.run("getent group ollama-guard-admin", check=False).returncode != 0
