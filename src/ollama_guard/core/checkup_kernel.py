"""What is wrong with the kernel's own memory settings, and with what is swapped to; part of `checkup`."""

from __future__ import annotations

from collections.abc import Iterator

from ollama_guard.core.checks import Check
from ollama_guard.core.finding import Finding, Severity
from ollama_guard.core.kernelfacts import Swap
from ollama_guard.core.machine import Machine, Server
from ollama_guard.core.mending import keep_from_swap, kernel_argument
from ollama_guard.core.policy import MIB, Policy
from ollama_guard.core.sizing import largest_limit
from ollama_guard.core.units import bytes_text

# The share of memory that ZFS' cache may have beside models before it is worth a word, and what is advised:
# half of the memory, its own default, is what the largest model would need.
LARGE_ARC_SHARE, ARC_SHARE = 1 / 4, 1 / 8
_SYSCTL = "/etc/sysctl.d/90-ollama.conf"
# The first kernel that has pressure to show.
_PSI_SINCE = (4, 20)


def slow_swap(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """Models that may be swapped to what is slow to read back."""
    areas = [swap for swap in machine.kernel.swaps if swap.slow and not swap.zram]
    for server in _swapping(machine):
        if areas:
            named = ", ".join(f"{area.name} ({bytes_text(area.bytes)}) is on {area.slow}" for area in areas)
            yield Finding(
                Check.SWAP_SLOW,
                f"{named}, and {server.title} may be swapped there",
                "a model that was swapped out is read back at a few MB/s in small pieces: minutes in which"
                " the machine looks frozen",
                _kept(machine, policy, server, areas),
                Severity.ADVICE,
            )


def zram(machine: Machine, policy: Policy) -> Iterator[Finding]:
    """Models that may be swapped into memory, where they stay as large as they were."""
    areas = [swap for swap in machine.kernel.swaps if swap.zram]
    for server in _swapping(machine):
        if areas:
            size = bytes_text(sum(area.bytes for area in areas))
            yield Finding(
                Check.ZRAM,
                f"{size} of swap are in memory itself ({_names(areas)}), and {server.title} may be swapped"
                " there",
                "quantized weights hardly compress: a model that is swapped into memory frees next to"
                " none, and each of its tokens costs CPU time",
                _kept(machine, policy, server, areas),
                Severity.ADVICE,
            )


def _swapping(machine: Machine) -> list[Server]:
    """The first server that may swap; where that can't be told, it can't be said. One mend suits all."""
    return [s for s in machine.servers if s.swap_allowed_bytes is None or s.swap_allowed_bytes > 0][:1]


def _limit(machine: Machine, server: Server) -> int | None:
    limit = server.limit_bytes
    return limit if limit is not None and limit < machine.total_bytes else None


def _kept(machine: Machine, policy: Policy, server: Server, areas: list[Swap]) -> str:
    """How to keep it out of these areas."""
    advised = largest_limit(machine, policy)
    return keep_from_swap(server, _limit(machine, server), machine.kernel, areas, advised)


def _names(areas: list[Swap]) -> str:
    return " ".join(area.name for area in areas)


def zfs_arc(machine: Machine) -> Iterator[Finding]:
    """A file cache that the kernel does not count as available."""
    most = machine.kernel.arc_max_bytes
    if most is None or most <= LARGE_ARC_SHARE * machine.total_bytes:
        return
    held, wanted = machine.kernel.arc_bytes or 0, int(ARC_SHARE * machine.total_bytes) // MIB * MIB
    yield Finding(
        Check.ZFS_ARC,
        f"ZFS may keep {bytes_text(most)} of the {bytes_text(machine.total_bytes)} as its cache (ARC), and"
        f" keeps {bytes_text(held)} now",
        "the kernel does not count it as available, and it gives way more slowly than a model is loaded:"
        " loads meet a full machine",
        f"options zfs zfs_arc_max={wanted} in /etc/modprobe.d/zfs.conf, then: update-initramfs -u (Fedora:"
        f" dracut -f) for the next start, and echo {wanted} > /sys/module/zfs/parameters/zfs_arc_max for now",
        Severity.ADVICE,
    )


def overcommit(machine: Machine) -> Iterator[Finding]:
    """An allocation policy under which models fail that fit, or start that can't."""
    mode = machine.kernel.overcommit
    if mode not in (1, 2):
        return
    why = (
        "the kernel then refuses what programs reserve and never use: models fail to load though memory is"
        " free"
        if mode == 2
        else "the kernel then grants what it can't have: a model that can never fit is not refused at"
        " its first allocation, but killed when the memory is gone"
    )
    yield Finding(
        Check.OVERCOMMIT,
        f"vm.overcommit_memory is {mode}",
        why,
        "vm.overcommit_memory = 0 where it is set now (grep -rs overcommit_memory /etc/sysctl.conf"
        f" /etc/sysctl.d), else in {_SYSCTL}, then: sysctl --system"
        + ("; Redis asks for 1: where one runs here, leave it" if mode == 1 else ""),
        Severity.SERIOUS if mode == 2 else Severity.ADVICE,
    )


def huge_pages(machine: Machine) -> Iterator[Finding]:
    """Page faults that compact memory first."""
    if (machine.kernel.thp, machine.kernel.thp_defrag) != ("always", "always"):
        return
    yield Finding(
        Check.THP,
        "transparent huge pages are on for everybody, and each page fault may compact memory for one (enabled"
        " and defrag are both always)",
        "when memory is short, whoever touches a new page waits until enough of it lies together: model"
        " loads, and everybody else, stall for seconds",
        "w /sys/kernel/mm/transparent_hugepage/defrag - - - - madvise in /etc/tmpfiles.d/90-ollama.conf,"
        " then: systemd-tmpfiles --create 90-ollama.conf",
        Severity.ADVICE,
    )


def pressure(machine: Machine) -> Iterator[Finding]:
    """A kernel that does not tell how it stalls."""
    version = machine.kernel.version
    if machine.psi or (version is not None and version < _PSI_SINCE):
        return
    yield Finding(
        Check.PSI,
        "this kernel shows no pressure (there is no /proc/pressure/memory)",
        "a machine that thrashes can look as if it had memory left; without pressure the guard is not"
        " woken by it, and can't tell a freeze from a busy moment",
        kernel_argument("psi=1"),
        Severity.ADVICE,
    )
