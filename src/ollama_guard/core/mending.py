"""The lines that bound a server's memory and its swap, however it is run, and arguments of the kernel's."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ollama_guard.core.finding import called, compose_place, restart, set_in_unit
from ollama_guard.core.kernelfacts import Kernel, Swap
from ollama_guard.core.machine import Server
from ollama_guard.core.policy import MIB
from ollama_guard.core.protection import among_deploys, may_have_deploys
from ollama_guard.core.runtime import RuntimeKind

_FSTAB = "# before its line in /etc/fstab"


def no_throttle(server: Server) -> str:
    """How to take away its memory.high."""
    if server.kind is RuntimeKind.SYSTEMD:
        return set_in_unit(server, "MemoryHigh=infinity")
    return _into_cgroup(server, "memory.high", "max")


def with_memory_cgroups(kernel: Kernel, mend: str) -> str:
    """A mend that bounds a cgroup's memory; of a kernel that does not, how to start it so that it does."""
    if kernel.memory_cgroups is not False:
        return mend
    return f"{kernel_argument('cgroup_enable=memory')}; then ask doctor again"


def set_limit(server: Server, limit_bytes: int) -> str:
    """How to limit its memory, and its swap with it where one line does both."""
    megabytes = f"{limit_bytes // MIB}m"
    match server.kind:
        case RuntimeKind.SYSTEMD:
            swap = "" if server.cgroup_version == 1 else " and MemorySwapMax=0"
            return set_in_unit(server, f"MemoryMax={limit_bytes // MIB}M{swap}")
        case RuntimeKind.DOCKER:
            where = compose_place(server, "")
            if not where:
                return _docker_update(server, megabytes)
            facts = server.container
            deploys = facts is not None and may_have_deploys(facts, limit_bytes)
            instead = f" ({among_deploys(megabytes)})" if deploys else ""
            lines = f"mem_limit: {megabytes} and memswap_limit: {megabytes}"
            return f"{lines} under {where}{instead}, then: {restart(server)}"
        case RuntimeKind.PROCESS:
            file = "memory.limit_in_bytes" if server.cgroup_version == 1 else "memory.max"
            return _into_cgroup(server, file, limit_bytes)


def keep_from_swap(
    server: Server, limit_bytes: int | None, kernel: Kernel, swaps: Sequence[Swap], advised_bytes: int = 0
) -> str:
    """How to keep it out of swap; ``limit_bytes`` is its memory limit, ``advised_bytes`` what it could be.

    Docker and cgroup v1 bound swap together with memory alone. The machine's swap is switched off only where
    nothing else can be changed, since that takes it from everybody.
    """
    told = _out_of_swap(server, limit_bytes, limit_bytes or max(advised_bytes, 0))
    if told and server.cgroup_version == 1 and server.swap_limited is False:
        told = f"{kernel_argument('swapaccount=1')}; then ask doctor again"
    if told:
        return with_memory_cgroups(kernel, told)
    off = dict.fromkeys(_off_for_good(swap) for swap in swaps) or [_FSTAB]
    names = " ".join(shlex.quote(swap.name) for swap in swaps) or "-a"
    return f"swapoff {names}, and, so that it stays off: {'; '.join(off)}"


def _out_of_swap(server: Server, limit_bytes: int | None, limit: int) -> str:
    """How to keep this server alone out of swap, with ``limit`` if that takes one; "" where it can't be."""
    old, megabytes = server.cgroup_version == 1, limit // MIB
    if server.kind is RuntimeKind.DOCKER and limit:
        return set_limit(server, limit) if limit_bytes is None else _bound_swap(server, f"{megabytes}m")
    if server.kind is RuntimeKind.SYSTEMD and not old:
        return set_in_unit(server, "MemorySwapMax=0")
    if not (server.cgroup.strip("/") and server.cgroup_directory):
        return ""
    if server.kind is RuntimeKind.SYSTEMD and limit and not server.users_own:
        # Of v1 systemd bounds memory alone, and the folder is there only once it has made it.
        file = f"{server.cgroup_directory}/memory.memsw.limit_in_bytes"
        command = f"ExecStartPost=-+/bin/sh -c 'echo {megabytes}M > {file}'"
        return set_in_unit(server, f"MemoryMax={megabytes}M and {command}")
    if server.kind is RuntimeKind.PROCESS and not old:
        return _into_cgroup(server, "memory.swap.max", 0)
    if server.kind is RuntimeKind.PROCESS and limit:
        first = _into_cgroup(server, "memory.limit_in_bytes", limit)
        return f"{first} && {_into_cgroup(server, 'memory.memsw.limit_in_bytes', limit)}"
    return ""


def _bound_swap(server: Server, megabytes: str) -> str:
    where = compose_place(server, "")
    if where:
        return f"memswap_limit: {megabytes} under {where}, then: {restart(server)}"
    return _docker_update(server, megabytes)


def _docker_update(server: Server, megabytes: str) -> str:
    return f"docker update --memory {megabytes} --memory-swap {megabytes} {called(server)}"


def _off_for_good(swap: Swap) -> str:
    if swap.zram:
        return "touch /etc/systemd/zram-generator.conf (Fedora), systemctl disable --now zramswap (Debian)"
    if swap.name == "/var/swap":
        return f"systemctl disable --now dphys-swapfile (Raspberry Pi OS), or {_FSTAB}"
    return _FSTAB


def kernel_argument(argument: str) -> str:
    """How to start the kernel with an argument, by who makes the boot loader's file."""
    return (
        f"{argument} on the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub;"
        f" Fedora: grubby --update-kernel=ALL --args={argument}; Raspberry Pi: cmdline.txt below /boot), then"
        " reboot"
    )


def _into_cgroup(server: Server, file: str, value: int | str) -> str:
    return f"echo {value} > {shlex.quote(f'{server.cgroup_directory}/{file}')}"
