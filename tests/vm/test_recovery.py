"""A frozen `ollama.service` with the real Ollama is recovered by the installed unit, which is no root."""

import json
import shutil
from collections.abc import Iterator

import pytest

from beds import BedUnavailable
from beds.real_ollama import install_with_models
from beds.vm import Vm
from beds.vm_guard import (
    READY_SECONDS,
    SERVER,
    UNIT,
    configure,
    cursor,
    events,
    freeze_and,
    restarts,
    wait_active,
    wait_event,
)

SLOW = "[Service]\nTimeoutStartSec=300s\n"
"""For the guard's unit at the boot of an emulated machine."""
RECOVERY_SECONDS = 900.0
"""On a machine at rest it is a matter of seconds once the freeze is sure; the emulator loads for minutes."""
ANSWER_SECONDS = 300
MODEL = "tiny"
PLACE = "/opt/real-ollama"
MODELS = "/usr/share/ollama/.ollama/models"
DROP_IN = "/etc/systemd/system/ollama.service.d/real.conf"
REAL = f"""
[Service]
ExecStart=
ExecStart={PLACE}/ollama-lib serve
Environment=LD_LIBRARY_PATH={PLACE} HOME=/usr/share/ollama OLLAMA_MODELS={MODELS} OLLAMA_KEEP_ALIVE=1h
"""
LINES = (
    "OLLAMA_MAX_LOADED_MODELS=1", "OLLAMA_NUM_PARALLEL=1", "OLLAMA_KEEP_ALIVE=30s", "OLLAMA_MAX_QUEUE=64",
    "LLAMA_ARG_CACHE_RAM=256",
)  # fmt: skip


@pytest.fixture(scope="module")
def real(machine: Vm | BedUnavailable) -> Iterator[None]:
    """The unit runs the real server with the small model instead; the fake one is back after the module."""
    if isinstance(machine, BedUnavailable):
        yield
        return
    installation, share = install_with_models(), machine.share / "real"
    shutil.copytree(installation.libraries, share / "bin")
    manifest = next(installation.models.glob(f"manifests/*/library/{MODEL}/latest"))
    described = json.loads(manifest.read_text())
    (share / "models/blobs").mkdir(parents=True)
    for layer in (described["config"], *described["layers"]):
        name = layer["digest"].replace(":", "-")
        shutil.copy(installation.models / "blobs" / name, share / "models/blobs" / name)
    kept = share / "models" / manifest.relative_to(installation.models)
    kept.parent.mkdir(parents=True)
    shutil.copy(manifest, kept)
    machine.run(f"cp -r /mnt/host/real/bin {PLACE}", ANSWER_SECONDS)
    machine.run(f"mkdir -p {MODELS} && cp -r /mnt/host/real/models/. {MODELS}", ANSWER_SECONDS)
    machine.run("chown -R ollama: /usr/share/ollama/.ollama")
    machine.write(DROP_IN, REAL)
    machine.run("systemctl daemon-reload && systemctl restart ollama")
    wait_answering(machine)
    yield
    machine.run(f"rm -r {DROP_IN} {PLACE} && systemctl daemon-reload && systemctl restart ollama")
    wait_answering(machine)
    shutil.rmtree(share)


def wait_answering(vm: Vm) -> None:
    vm.wait("curl -fs -m 5 http://127.0.0.1:11434/api/version", ANSWER_SECONDS, "Ollama answers")


def asked(vm: Vm) -> str:
    """What a client of the small model hears."""
    body = json.dumps({"model": MODEL, "prompt": "hello", "stream": False, "options": {"num_predict": 2}})
    command = f"curl -s -m {ANSWER_SECONDS} http://127.0.0.1:11434/api/generate -d '{body}'"
    return vm.says(command, ANSWER_SECONDS + 30)


def server_pid(vm: Vm) -> int:
    return int(vm.says("systemctl show -P MainPID ollama"))


@pytest.mark.usefixtures("real")
def test_a_frozen_unit_is_recovered_and_runs_under_the_environment_file(vm: Vm) -> None:
    since = configure(vm, SERVER.format(quiet="1h"))
    (found,) = events(vm, "runtime.found", since)
    assert found["OLLAMA_GUARD_NAME"] == "ollama.service"
    assert '"done":true' in asked(vm)
    before, lives = server_pid(vm), restarts(vm)
    vm.run(f"kill -STOP {before}")
    finished = wait_event(vm, "playbook.finished", since, RECOVERY_SECONDS)
    for event in [*events(vm, "playbook.started", since), *events(vm, "playbook.step", since), finished]:
        print(event["MESSAGE"])  # noqa: T201 - shown with -s
    assert finished["OLLAMA_GUARD_OUTCOME"] == "done"
    now = server_pid(vm)
    assert now not in (0, before)
    environment = vm.says(f"tr '\\0' '\\n' < /proc/{now}/environ").splitlines()
    assert set(LINES) <= set(environment)
    assert vm.says("grep -v ^# /var/lib/ollama-guard/env/ollama.env").splitlines() == list(LINES)
    assert vm.says("systemctl show -P MemoryMax ollama") != "infinity"
    assert '"done":true' in asked(vm)
    assert restarts(vm) == lives

    assert vm.run("ollama-guard release", 240).returncode == 0
    assert vm.says("systemctl show -P MemoryMax ollama") == "infinity"
    assert vm.says("grep -v ^# /var/lib/ollama-guard/env/ollama.env") == ""
    assert server_pid(vm) == now, "nothing is restarted for a release"


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("step", ["constrain", "stop", "start"])
def test_a_guard_that_is_killed_in_a_step_goes_on_from_there(vm: Vm, step: str) -> None:
    since = configure(vm, SERVER.format(quiet="1h"))
    before, lives = server_pid(vm), restarts(vm)
    freeze_and(vm, f"kill -9 $(systemctl show -P MainPID {UNIT})", step, RECOVERY_SECONDS)
    finished = wait_event(vm, "playbook.finished", since, RECOVERY_SECONDS)
    assert finished["OLLAMA_GUARD_OUTCOME"] == "done"
    assert restarts(vm) == lives + 1
    now = server_pid(vm)
    assert now not in (0, before)
    environment = vm.says(f"tr '\\0' '\\n' < /proc/{now}/environ").splitlines()
    assert set(LINES) <= set(environment)
    assert '"done":true' in asked(vm)
    assert vm.run("ollama-guard release", 240).returncode == 0


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("step", ["stop", "start"])
def test_after_the_plug_was_pulled_in_a_step_ollama_serves_and_is_free_again_after_quiet(
    vm: Vm, step: str
) -> None:
    """Not a shutdown: nothing is told, nothing is written out."""
    since, boot = configure(vm, SERVER.format(quiet="60s")), vm.boot_id
    vm.write(f"/etc/systemd/system/{UNIT}.d/slow.conf", SLOW)
    vm.run("systemctl daemon-reload; sync")
    freeze_and(vm, "echo b > /proc/sysrq-trigger", step, RECOVERY_SECONDS)
    vm.await_reboot(boot)
    wait_active(vm)
    wait_answering(vm)
    assert '"done":true' in asked(vm)
    lines = "grep -v ^# /var/lib/ollama-guard/env/ollama.env"
    vm.eventually(lambda: vm.says(lines) == "", RECOVERY_SECONDS, "the constraints are lifted")
    assert vm.says("systemctl show -P MemoryMax ollama") == "infinity"
    assert not [event for event in events(vm, "decision.held", since) if "gave_up" in event["MESSAGE"]]


@pytest.mark.usefixtures("real")
def test_with_the_right_to_it_the_kernel_is_told_to_take_a_model_first(vm: Vm) -> None:
    """By the drop-in; without it the guard says at its start that it can't."""

    def may() -> str:
        since = cursor(vm)
        vm.run(f"systemctl restart {UNIT}", READY_SECONDS)
        tested = {event["OLLAMA_GUARD_SUBJECT"]: event for event in events(vm, "guard.tested", since)}
        return str(tested["runners_die_first"]["OLLAMA_GUARD_MAY"])

    def scores() -> list[str]:
        runners = f"pgrep -P {server_pid(vm)}"
        return vm.says(f"for pid in $({runners}); do cat /proc/$pid/oom_score_adj; done").splitlines()

    wait_active(vm)
    assert may() == "false"
    assert '"done":true' in asked(vm)
    assert scores() == ["0"]
    vm.run(
        f"install -D -m 644 -t /etc/systemd/system/{UNIT}.d"
        " /usr/share/ollama-guard/drop-ins/dac-override.conf && systemctl daemon-reload"
    )
    assert may() == "true"
    vm.eventually(lambda: scores() == ["500"], 120, "the runner would go first")
    assert vm.says(f"cat /proc/{server_pid(vm)}/oom_score_adj") == "0"
