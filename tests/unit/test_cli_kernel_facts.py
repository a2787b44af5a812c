"""What `doctor` reads of a kernel and its swap, on machines that are laid out as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_guard.cli.kernel_facts import kernel_facts, kernels_root
from ollama_guard.core.kernelfacts import Kernel, Swap

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
KIB = 1024


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[..., Kernel]:
    """Lays files out and looks at them; what could not be read is in the function's `unknown`."""

    def look(**files: str) -> Kernel:
        given = {"proc/sys/kernel/osrelease": "6.1.0-28-amd64\n", "proc/sys/vm/overcommit_memory": "0\n"}
        for path, text in {**given, "proc/swaps": HEAD, **files}.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return kernel_facts(tmp_path, unknown)

    unknown: dict[str, str] = {}
    look.unknown = unknown  # type: ignore[attr-defined]
    return look


def test_a_calm_kernel_is_read(lay_out: Callable[..., Kernel]) -> None:
    kernel = lay_out(
        **{
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
        }
    )
    assert kernel == Kernel("6.1.0-28-amd64", 0, "madvise", "madvise")
    assert kernel.version == (6, 1)
    assert lay_out.unknown == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rows", "known"),
    [("memory 0 99 1\n", True), ("memory\t0\t99\t0\n", False), ("cpu 0 1 1\n", None), ("", None)],
)
def test_a_kernel_without_memory_cgroups_says_so(
    lay_out: Callable[..., Kernel],
    rows: str,
    known: bool | None,  # noqa: FBT001
) -> None:
    head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
    assert lay_out(**{"proc/cgroups": f"{head}{rows}"}).memory_cgroups is known


def test_zfs_tells_how_far_its_cache_may_grow(lay_out: Callable[..., Kernel]) -> None:
    arcstats = "9 1 0x01 123 33456 5 6\nname type data\nhits 4 9\nc_max 4 8000\nsize 4 5000\nbroken\n"
    kernel = lay_out(**{"proc/spl/kstat/zfs/arcstats": arcstats})
    assert (kernel.arc_bytes, kernel.arc_max_bytes) == (5000, 8000)


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("/dev/sda2 partition 8 0 -2", {"sys/block/sda/queue/rotational": "1\n"}, "a rotating disk"),
        ("/dev/sda2 partition 8 0 -2", {"sys/block/sda/queue/rotational": "0\n"}, ""),
        ("/dev/nvme0n1p3 partition 8 0 -2", {"sys/block/nvme0n1/queue/rotational": "0\n"}, ""),
        ("/dev/mmcblk0p2 partition 8 0 -2", {}, "an SD card or eMMC"),
        ("/dev/vda2 partition 8 0 -2", {"sys/block/vda/queue/rotational": "1\n"}, ""),
        (
            "/dev/sda2 partition 8 0 -2",
            {"sys/block/sda/queue/rotational": "1\n", "sys/block/sda/device/model": "QEMU HARDDISK\n"},
            "",
        ),
    ],
)
def test_what_is_slow_is_told_by_the_disk_beneath(
    lay_out: Callable[..., Kernel], line: str, files: dict[str, str], expected: str
) -> None:
    kernel = lay_out(**{"proc/swaps": f"{HEAD}{line}\n", **files})
    assert kernel.swaps == (Swap(line.split(maxsplit=1)[0], 8 * KIB, slow=expected),)
    assert lay_out.unknown == {}  # type: ignore[attr-defined]


ROTATES = {f"sys/block/{disk}/queue/rotational": "1\n" for disk in ("dm-0", "dm-1", "md0", "sda", "vda")}


@pytest.mark.parametrize(
    ("swap", "slaves", "expected"),
    [
        ("dm-0", {"dm-0": ["vda3"]}, ""),
        ("dm-0", {"dm-0": ["sda3"]}, "a rotating disk"),
        ("dm-1", {"dm-1": ["dm-0"], "dm-0": ["md0"], "md0": ["vda1", "sda1"]}, "a rotating disk"),
        ("dm-1", {"dm-1": ["dm-0"], "dm-0": ["md0"], "md0": ["vda1", "nvme0n1p2"]}, ""),
        ("md0p1", {"md0": ["mmcblk0p2"]}, "an SD card or eMMC"),
    ],
)
def test_a_device_that_is_made_of_others_is_as_slow_as_their_disks(
    lay_out: Callable[..., Kernel], swap: str, slaves: dict[str, list[str]], expected: str
) -> None:
    """LVM, encryption and RAID say "rotating" wherever a disk below does, be it a virtual one."""
    below = {f"sys/block/{device}/slaves/{one}": "" for device, ones in slaves.items() for one in ones}
    disks = {"sys/block/nvme0n1/queue/rotational": "0\n", **ROTATES}
    kernel = lay_out(**{"proc/swaps": f"{HEAD}/dev/{swap} partition 8 0 -2\n", **disks, **below})
    assert kernel.swaps == (Swap(f"/dev/{swap}", 8 * KIB, slow=expected),)
    assert lay_out.unknown == {}  # type: ignore[attr-defined]


def test_a_device_that_does_not_tell_what_it_is_made_of_is_said(lay_out: Callable[..., Kernel]) -> None:
    """And so is one of whose disks only a part is known, and that part not slow."""
    lines = f"{HEAD}/dev/dm-0 partition 8 0 -2\n/dev/dm-1 partition 8 0 -2\n"
    kernel = lay_out(
        **{"proc/swaps": lines, "sys/block/dm-1/slaves/vda3": "", "sys/block/dm-1/slaves/sdq": "", **ROTATES}
    )
    assert [swap.slow for swap in kernel.swaps] == ["", ""]
    assert list(lay_out.unknown) == ["swap /dev/dm-0", "swap /dev/dm-1"]  # type: ignore[attr-defined]


def test_swap_in_memory_is_told_from_swap_on_a_disk(lay_out: Callable[..., Kernel]) -> None:
    assert lay_out(**{"proc/swaps": f"{HEAD}/dev/zram0 partition 8 0 100\n"}).swaps == (
        Swap("/dev/zram0", 8 * KIB, zram=True),
    )


def test_a_file_whose_disk_can_not_be_told_is_said(lay_out: Callable[..., Kernel]) -> None:
    kernel = lay_out(**{"proc/swaps": f"{HEAD}/swap\\040file file 8 0 -2\n"})
    assert kernel.swaps == (Swap("/swap file", 8 * KIB),)
    assert list(lay_out.unknown) == ["swap /swap file"]  # type: ignore[attr-defined]


def test_broken_files_are_no_facts(lay_out: Callable[..., Kernel]) -> None:
    kernel = lay_out(
        **{
            "proc/swaps": f"{HEAD}\nnonsense\n/dev/sda2 partition many 0 -2\n",
            "proc/sys/vm/overcommit_memory": "-1\n",
            "proc/sys/kernel/osrelease": "mine\n",
        }
    )
    assert (kernel.swaps, kernel.overcommit, kernel.version) == ((), None, None)


def test_only_a_laid_out_machine_has_a_kernel_of_its_own(tmp_path: Path) -> None:
    assert kernels_root(tmp_path) == Path("/")
    (tmp_path / "proc").mkdir()
    assert kernels_root(tmp_path) == tmp_path
