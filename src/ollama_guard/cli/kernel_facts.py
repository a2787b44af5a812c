"""What `doctor` reads of the kernel's memory settings and of what is swapped to: files of /proc and /sys."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ollama_guard.cli.bounded import why
from ollama_guard.core.kernelfacts import Kernel, Swap

# Disks of a virtual machine say "rotating" whatever they lie on: of them nothing is said.
_VIRTUAL = re.compile(r"(?:vd|xvd|nbd|rbd)[a-z0-9]+")
_VIRTUAL_VENDORS = ("qemu", "vmware", "virtual", "vbox", "msft", "google", "xen")
_CARDS = re.compile(r"mmcblk\d+")
_OCTAL = re.compile(r"\\([0-7]{3})")
# Bytes of one file: the largest, ZFS' counters, has some ten thousand.
_MOST_BYTES = 1 << 18
# More areas than anybody has; a laid-out file may go on for ever.
_MOST_SWAPS = 32
# Block devices made of others (LVM, encryption, RAID, caches), and levels: LVM on LUKS on RAID is three.
_MADE_OF_OTHERS = re.compile(r"(?:dm-|md|bcache)\d+")
_MOST_LEVELS = 8


def kernels_root(root: Path) -> Path:
    """Below what /proc and /sys are looked at: a laid-out machine has its own, else this one's count."""
    return root if (root / "proc").is_dir() else Path("/")


def kernel_facts(root: Path, unknown: dict[str, str]) -> Kernel:
    """The settings of the kernel; what can't be read is told in ``unknown``."""
    look = _Look(kernels_root(root), unknown)
    arc = look.table("proc/spl/kstat/zfs/arcstats", optional=True)
    return Kernel(
        release=look.word("proc/sys/kernel/osrelease"),
        overcommit=_number(look.word("proc/sys/vm/overcommit_memory")),
        thp=look.chosen("sys/kernel/mm/transparent_hugepage/enabled"),
        thp_defrag=look.chosen("sys/kernel/mm/transparent_hugepage/defrag"),
        arc_bytes=arc.get("size"),
        arc_max_bytes=arc.get("c_max"),
        swaps=look.swaps(),
        memory_cgroups=_memory_cgroups(look.word("proc/cgroups", optional=True)),
    )


class _Look:
    """Reads below one root, and keeps what could not be read."""

    def __init__(self, root: Path, unknown: dict[str, str]) -> None:
        self._root = root
        self._unknown = unknown

    def word(self, path: str, *, optional: bool = False) -> str:
        try:
            with (self._root / path).open("rb") as file:  # of the kernel's own: never on a disk
                return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
        except FileNotFoundError as error:
            if not optional:
                self._unknown[f"/{path}"] = why(error)
        except OSError as error:
            self._unknown[f"/{path}"] = why(error)
        return ""

    def chosen(self, path: str) -> str:
        """The word in brackets; "" also where this kernel has no such setting."""
        match = re.search(r"\[(\S+)\]", self.word(path, optional=True))
        return match[1] if match else ""

    def table(self, path: str, *, optional: bool) -> dict[str, int]:
        """``name type value`` lines, as ZFS writes its counters."""
        rows = (line.split() for line in self.word(path, optional=optional).splitlines())
        return {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit()}

    def swaps(self) -> tuple[Swap, ...]:
        found = []
        for line in self.word("proc/swaps").splitlines()[1 : _MOST_SWAPS + 1]:
            fields = line.split()
            if len(fields) >= 3 and fields[2].isdigit():
                name = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[0])
                found.append(self._swap(name, int(fields[2]) * 1024, is_file=fields[1] == "file"))
        return tuple(found)

    def _swap(self, name: str, size: int, *, is_file: bool) -> Swap:
        device = self._beneath(name) if is_file else name.rpartition("/")[2]
        if device.startswith("zram"):
            return Swap(name, size, zram=True)
        return Swap(name, size, slow=self._slow(device, name))

    def _beneath(self, name: str) -> str:
        """The block device that a swap file lies on, "" where that can't be told (btrfs, ZFS)."""
        with contextlib.suppress(OSError):
            number = (self._root / name.lstrip("/")).stat().st_dev
            link = self._root / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}"
            if link.exists():
                return link.resolve().name
        return ""

    def _slow(self, device: str, name: str) -> str:
        found = {self._slow_disk(beneath) for beneath in self._beneath_all(device, _MOST_LEVELS)}
        slow = sorted(word for word in found if word)
        if None in found and not slow:
            self._unknown[f"swap {name}"] = "what kind of disk it is on can't be told"
        return slow[0] if slow else ""

    def _beneath_all(self, device: str, levels: int) -> Iterator[str]:
        """The devices that one is made of, down to disks and their partitions; "" for what can't be told.

        What it says itself tells nothing: in a virtual machine it says "rotating" as the disk below does.
        """
        disk = self._disk(device) or ""
        if not _MADE_OF_OTHERS.fullmatch(disk):
            yield device
            return
        slaves: list[str] = []
        with contextlib.suppress(OSError):
            slaves = os.listdir(self._root / "sys/block" / disk / "slaves")  # noqa: PTH208 (names are enough)
        if not slaves or not levels:
            yield ""
        for slave in slaves if levels else ():
            yield from self._beneath_all(slave, levels - 1)

    def _slow_disk(self, device: str) -> str | None:
        """What makes a disk, or a partition of it, slow; "" for nothing, None where that can't be told."""
        if _CARDS.match(device):
            return "an SD card or eMMC"
        if _VIRTUAL.match(device):
            return ""
        disk = self._disk(device)
        if disk is None:
            return None
        folder = f"sys/block/{disk}"
        vendor = self.word(f"{folder}/device/vendor", optional=True)
        model = self.word(f"{folder}/device/model", optional=True)
        if any(made in f"{vendor} {model}".lower() for made in _VIRTUAL_VENDORS):
            return ""
        return "a rotating disk" if self.word(f"{folder}/queue/rotational") == "1" else ""

    def _disk(self, device: str) -> str | None:
        """The whole disk of a partition: the longest name in /sys/block that it begins with."""
        names = []
        with contextlib.suppress(OSError):
            names = os.listdir(self._root / "sys/block")  # noqa: PTH208 (names are enough)
        mine = [name for name in names if re.fullmatch(rf"{re.escape(name)}(?:p?\d+)?", device)]
        return max(mine, key=len) if mine else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _memory_cgroups(text: str) -> bool | None:
    """By the rows of /proc/cgroups, which newer kernels have for v1 alone: without one it can't be told."""
    rows = [line.split() for line in text.splitlines()]
    return next((row[3] == "1" for row in rows if len(row) == 4 and row[0] == "memory"), None)
