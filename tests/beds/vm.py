"""Bed 3: a whole machine with systemd and pure cgroup v2, in an emulator, spoken to over ssh.

Correct and 10 to 20 times slower than this machine: for behaviour and for ratios, never for absolute times.
Nothing that happens in it stays: the disk is a throw-away overlay.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from beds import BedUnavailable
from beds.http import free_port
from beds.packages import require_program
from beds.vm_image import Image, image

BOOT_SECONDS = 600
"""30 s on a machine at rest; a busy one takes many times that."""
COMMAND_SECONDS = 120
"""For one command; a `true` takes 0.1 s."""
MEMORY_MIB = 2048


class Vm:
    """A running virtual machine. `share` is a folder of ours that it sees read-only as /mnt/host.

    Raises:
        BedUnavailable: at the start, when there is no emulator or no image.
    """

    def __init__(self, memory_mib: int = MEMORY_MIB) -> None:
        require_program("qemu-system-x86_64", "qemu-system-x86", "seabios", "ipxe-qemu")
        require_program("ssh", "openssh-client")
        self._image: Image = image()
        self._memory_mib = memory_mib
        self._home = Path(tempfile.mkdtemp(prefix="vm-"))
        self.share = self._home / "share"
        self.share.mkdir()
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.boot_seconds = 0.0

    def __enter__(self) -> Self:
        """Boot, until ssh answers and systemd has started all there is."""
        began = time.monotonic()
        with (self._home / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await_ssh(began + BOOT_SECONDS)
            self.run("systemctl is-system-running --wait || true", BOOT_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.boot_seconds = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Switch it off."""
        self.stop()

    def run(
        self, command: str, seconds: float = COMMAND_SECONDS, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command there as root; with `check` a failure is an error that shows what it said."""
        done = subprocess.run(
            [*self._ssh(), f"exec bash -c {shlex.quote(command)}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise AssertionError(f"exit code {done.returncode} of: {command}\n{said}")
        return done

    def says(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a command prints, stripped; whatever its exit code."""
        return self.run(command, seconds, check=False).stdout.strip()

    def wait(self, command: str, seconds: float, what: str) -> float:
        """Until a command succeeds; how many seconds that took."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            if self.run(command, seconds, check=False).returncode == 0:
                return time.monotonic() - began
            time.sleep(0.5)
        raise AssertionError(f"not within {seconds:.0f} s: {what} ({command})")

    def eventually(self, truth: Callable[[], bool], seconds: float, what: str) -> None:
        """Until something is true."""
        end = time.monotonic() + seconds
        while not truth():
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
            time.sleep(0.5)

    def write(self, path: str, content: str) -> None:
        """Make a file there."""
        self.run(f"mkdir -p {shlex.quote(os.path.dirname(path))}")  # noqa: PTH120 - a path over there
        subprocess.run(
            [*self._ssh(), f"cat > {shlex.quote(path)}"],
            input=content, text=True, timeout=COMMAND_SECONDS, check=True,
        )  # fmt: skip

    @property
    def boot_id(self) -> str:
        """What tells one boot from another; "" while it can't be asked."""
        return self.says("cat /proc/sys/kernel/random/boot_id", 30)

    def await_reboot(self, before: str) -> None:
        """Until it has booted once more, all of it; `before` is the `boot_id` of the time before."""
        # What leads to the old boot would only hang.
        *options, host = self._ssh()
        subprocess.run([*options, "-O", "exit", host], capture_output=True, timeout=30, check=False)
        self.eventually(lambda: self._booted_since(before), BOOT_SECONDS, "it has booted once more")
        self.run("systemctl is-system-running --wait || true", BOOT_SECONDS)

    def _booted_since(self, before: str) -> bool:
        try:
            return self.boot_id not in ("", before)
        except subprocess.TimeoutExpired:
            return False

    def console(self) -> str:
        """What it printed on its serial line."""
        log = self._home / "console.log"
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def stop(self) -> None:
        """Pull the plug, and remove what it left here."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def _await_ssh(self, end: float) -> None:
        assert self._process is not None
        while self.run("true", 30, check=False).returncode != 0:
            if self._process.poll() is not None:
                said = (self._home / "qemu.log").read_text(encoding="utf-8").strip()
                raise BedUnavailable(f"the emulator ended: {said or self.console()[-500:]}")
            if time.monotonic() > end:
                raise BedUnavailable(f"it did not boot within {BOOT_SECONDS} s: {self.console()[-500:]}")
            time.sleep(0.5)

    def _ssh(self) -> list[str]:
        options = {
            "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR",
            "ConnectTimeout": "5", "ControlMaster": "auto", "ControlPath": f"{self._home}/ssh",
            "ControlPersist": "600", "ServerAliveInterval": "15", "ServerAliveCountMax": "4",
        }  # fmt: skip
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return [
            "ssh",
            "-F",
            "none",
            "-i",
            str(self._image.key),
            "-p",
            str(self._port),
            *words,
            "root@127.0.0.1",
        ]

    def _argv(self) -> list[str]:
        """Without network beyond our own ssh, and without anything that the tests don't need."""
        return [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
            "-smp", "2", "-m", str(self._memory_mib), "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd),
            "-append", "root=/dev/vda rw console=ttyS0 quiet",
            "-drive", f"file={self._image.disk},if=virtio,format=raw,snapshot=on,cache=unsafe",
            "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22",
            "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci",
            "-virtfs", f"local,path={self.share},mount_tag=hostshare,security_model=none,readonly=on",
            "-serial", f"file:{self._home}/console.log",
        ]  # fmt: skip
