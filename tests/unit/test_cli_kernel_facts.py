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
        ("/dev/dm-1 partition 8 0 -2", {"sys/block/dm-1/queue/rotational": "1\n"}, "a rotating disk"),
        ("/dev/nvme0n1p3 partition 8 0 -2", {"sys/block/nvme0n1/queue/rotational": "0\n"}, ""),
        ("/dev/mmcblk0p2 partition 8 0 -2", {}, "an SD card"),
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
