"""One virtual machine for the whole tier: the .deb installed, and a fake Ollama as its `ollama.service`."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from beds import BedUnavailable
from beds.vm import Vm

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 900
"""A minute for the wheels on a machine at rest."""
INSTALL_SECONDS = 900
"""The virtual environment is made over there: 10 s here, minutes in an emulator."""
START_SECONDS = 300
"""The guard is ready within a second on a machine at rest; the emulator starts each Python in ten."""

SLOW = "[Service]\nTimeoutStartSec=300s\n"
"""For the guard's unit: its own 30 s are for machines that are not emulated."""

OLLAMA_UNIT = """
[Unit]
Description=Ollama Service
[Service]
ExecStart=/usr/bin/python3 -B -m ollama_guard.testing.fake --models-dir /usr/share/ollama/models \\
    --model small=40MiB,rate=400 --model other=60MiB,rate=400 --model huge=8GiB,rate=100
Environment=PYTHONPATH=/usr/local/lib/fake-ollama
User=ollama
Group=ollama
Restart=always
RestartSec=3
EnvironmentFile=-/var/lib/ollama-guard/env/ollama.env
[Install]
WantedBy=default.target
"""


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built as an owner would."""
    made = subprocess.run(
        ["make", "--no-print-directory", "deb"],
        cwd=ROOT, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (built,) = (ROOT / "dist").glob("*.deb")
    return Path(shutil.copy(built, tmp_path_factory.mktemp("deb") / "ollama-guard.deb"))


@pytest.fixture(scope="session")
def machine(deb: Path) -> Iterator[Vm | BedUnavailable]:
    """The machine, with an Ollama and without a guard; or why there is none."""
    with ExitStack() as stack:
        try:
            vm = Vm()
            shutil.copy(deb, vm.share)
            shutil.copy(ROOT / "config" / "ollama-guard.toml", vm.share / "shipped.toml")
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "src", vm.share / "fake", ignore=without)
            stack.enter_context(vm)
        except BedUnavailable as problem:
            yield problem
            return
        print(f"booted in {vm.boot_seconds:.0f} s")  # noqa: T201 - shown with -s
        vm.run("useradd -r -s /bin/false -U -m -d /usr/share/ollama ollama")
        vm.run("cp -r /mnt/host/fake /usr/local/lib/fake-ollama")
        vm.write("/etc/systemd/system/ollama.service", OLLAMA_UNIT)
        vm.run("systemctl daemon-reload && systemctl enable -q --now ollama")
        vm.wait("curl -fs -m 5 http://127.0.0.1:11434/api/version", 120, "the fake Ollama answers")
        yield vm


@pytest.fixture
def vm(machine: Vm | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]) -> Vm:
    """The machine, with the guard installed, running, and configured as shipped."""
    if isinstance(machine, BedUnavailable):
        give_up(machine)
    if machine.run("test -e /opt/ollama-guard", check=False).returncode != 0:
        took = machine.run("time dpkg -i /mnt/host/ollama-guard.deb", INSTALL_SECONDS)
        print(took.stdout, took.stderr)  # noqa: T201
    machine.write("/run/systemd/system/ollama-guard.service.d/slow.conf", SLOW)  # a reboot took it away
    machine.run("systemctl daemon-reload")
    machine.run(
        "cd /etc/systemd/system; test ! -e ollama-guard.service.d || { "
        "rm -r ollama-guard.service.d; systemctl daemon-reload; systemctl stop ollama-guard; }; "
        "cmp -s /mnt/host/shipped.toml /etc/ollama-guard/ollama-guard.toml || { "
        "cp /mnt/host/shipped.toml /etc/ollama-guard/ollama-guard.toml; systemctl stop ollama-guard; }; "
        "systemctl start ollama ollama-guard",
        START_SECONDS,
    )
    return machine
