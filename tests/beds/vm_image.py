"""Builds the disk of Bed 3 once a machine: Debian 12 with systemd and pure cgroup v2, from packages alone.

Root, since mmdebstrap then needs no namespaces; about a minute, 300 MB to download, 1.5 GB on disk.
"""

import lzma
import os
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from beds import BedUnavailable
from beds.locks import cache_directory, locked
from beds.packages import require_program

# To be raised whenever what is in the image changes, so that no old one is taken for it.
VERSION = 1
BUILD_SECONDS = 1200
"""A minute on a machine at rest."""
DISK_BYTES = 4 * 1024**3
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "polkitd", "udev", "kmod", "initramfs-tools", "busybox",
    "linux-image-amd64", "python3", "python3-venv", "curl", "openssh-server", "procps", "iproute2",
)  # fmt: skip
# Just what this virtual machine has: a small initrd is unpacked sooner.
MODULES = (
    "virtio_pci", "virtio_mmio", "virtio_blk", "ext4", "virtio_net", "9p", "9pnet_virtio",
)  # fmt: skip
UNUSED = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer", "e2scrub_reap")
FILES = {
    "etc/hostname": "vmtest\n",
    "etc/hosts": "127.0.0.1 localhost vmtest\n",
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 1\n",
    "etc/ssh/sshd_config.d/vm.conf": "PermitRootLogin prohibit-password\nUseDNS no\nUsePAM no\n",
    "etc/systemd/network/10-vm.network": (
        "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
    ),
    "etc/systemd/system/mnt-host.mount": (
        "[Mount]\nWhat=hostshare\nWhere=/mnt/host\nType=9p\n"
        "Options=trans=virtio,version=9p2000.L,msize=524288,ro\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
}
"""What is written into it, by path."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built machine; the disk is shared by all tests, so start it with a throw-away overlay."""

    root: Path

    @property
    def disk(self) -> Path:
        """A raw ext4 file system without a partition table."""
        return self.root / "root.img"

    @property
    def kernel(self) -> Path:
        """The uncompressed kernel: unpacking it in an emulator takes longer than booting."""
        return self.root / "vmlinux"

    @property
    def initrd(self) -> Path:
        """The kernel's first file system."""
        return self.root / "initrd.img"

    @property
    def key(self) -> Path:
        """The private key that opens root's account."""
        return self.root / "id_ed25519"


def image() -> Image:
    """The image, built first if need be.

    Raises:
        BedUnavailable: not x86-64, not root, or no packages.
    """
    if platform.machine() != "x86_64":
        raise BedUnavailable(f"the virtual machine is x86-64, this is {platform.machine()}")
    built = Image(cache_directory() / f"vm-bookworm-{VERSION}")
    with locked(built.root.with_suffix(".lock")):
        if not built.disk.exists():
            _build(built)
    return built


def _build(image: Image) -> None:
    if os.geteuid() != 0:
        raise BedUnavailable("only root can build the virtual machine's disk")
    for program, package in (("mmdebstrap", "mmdebstrap"), ("ssh-keygen", "openssh-client")):
        require_program(program, package)
    require_program("mke2fs", "e2fsprogs")
    # Built aside and renamed at the end: a broken-off attempt never looks like an image.
    building = Image(image.root.with_name(image.root.name + ".building"))
    shutil.rmtree(building.root, ignore_errors=True)
    building.root.mkdir(parents=True)
    tree = building.root / "tree"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(building.key))
    _bootstrap(tree)
    _configure(tree, building.key.with_suffix(".pub").read_text(encoding="utf-8"))
    _pack(building, tree)
    shutil.rmtree(tree)
    building.root.rename(image.root)


def _pack(building: Image, tree: Path) -> None:
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    (initrd,) = (tree / "boot").glob("initrd.img-*")
    building.kernel.write_bytes(uncompressed(kernel.read_bytes()))
    shutil.copy(initrd, building.initrd)
    with building.disk.open("wb") as disk:
        disk.truncate(DISK_BYTES)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _run("mke2fs", "-q", "-t", "ext4", "-F", "-E", options, "-d", str(tree), str(building.disk))


def _bootstrap(tree: Path) -> None:
    wanted = "\\n".join(MODULES) + "\\n"
    early = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" && '
        'printf "MODULES=list\\nCOMPRESS=gzip\\nRESUME=none\\n" > "$1/etc/initramfs-tools/conf.d/vm" && '
        f'printf "{wanted}" > "$1/etc/initramfs-tools/modules"'
    )
    excluded = [
        f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "doc", "locale", "info")
    ]
    _run(
        "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root",
        '--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io", *excluded,
        f"--essential-hook={early}", f"--include={','.join(PACKAGES)}",
        '--customize-hook=chroot "$1" update-initramfs -u -k all', "bookworm", str(tree),
    )  # fmt: skip


def _configure(tree: Path, public_key: str) -> None:
    for name, content in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (tree / "mnt" / "host").mkdir(exist_ok=True)
    # A folder there makes journald keep its journal on disk.
    (tree / "var" / "log" / "journal").mkdir(exist_ok=True)
    ssh = tree / "root" / ".ssh"
    ssh.mkdir(exist_ok=True)
    ssh.chmod(0o700)
    (ssh / "authorized_keys").write_text(public_key, encoding="utf-8")
    _run("chroot", str(tree), "passwd", "-q", "-d", "root")
    wanted = ("systemd-networkd", "ssh", "mnt-host.mount")
    _run("chroot", str(tree), "systemctl", "-q", "enable", *wanted)
    _run("chroot", str(tree), "systemctl", "-q", "mask", "systemd-networkd-wait-online", *UNUSED)
    for leftover in (tree / "var/cache/apt").glob("*.bin"):
        leftover.unlink()


def uncompressed(kernel: bytes) -> bytes:
    """The ELF file inside of a bzImage (the kernel's Documentation/arch/x86/boot.rst)."""
    sectors = kernel[0x1F1] or 4
    offset, length = struct.unpack_from("<II", kernel, 0x248)
    begin = (sectors + 1) * 512 + offset
    payload = kernel[begin : begin + length]
    if not payload.startswith(b"\xfd7zXZ\0"):
        raise BedUnavailable(f"the kernel is packed in an unknown way: {payload[:6]!r}")
    return lzma.LZMADecompressor().decompress(payload)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BedUnavailable(f"the virtual machine can't be built: {command[0]}: {last}")
