"""What is wrong with a machine on which Ollama and the guard live, why that matters, what mends it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from ollama_guard.core.checkup_servers import exposed, keep_alive, max_vram, oom_policy, prompt_cache
from ollama_guard.core.finding import Finding, stop
from ollama_guard.core.machine import Machine
from ollama_guard.core.policy import MIB, Authority
from ollama_guard.core.units import bytes_text, seconds_text

# Seconds after which a status file is nobody's word any more (design, section 7).
STALE_SECONDS = 60.0
# Bytes that the guard locks, with room: its budget is 16 MiB, and 64 is what its unit grants as MemoryMin.
LOCKED_BYTES = 64 * MIB
GROUPS = {"status.sock": "ollama-guard", "control.sock": "ollama-guard-admin"}
"""Whose each socket is to be (design, section 7)."""


@dataclass(frozen=True, slots=True)
class GuardFacts:
    """What was seen of the guard itself.

    ``answers``: its socket answered; None when this user may not ask. ``status_age_seconds`` is that of the
    public status file, None without one. ``would`` is what it would have done to the server, in its own
    words. ``unreadable`` is a configuration file that the guard's user can't read, ``missing_groups`` are the
    sockets' groups that this machine doesn't have.
    """

    answers: bool | None = None
    status_age_seconds: float | None = None
    config_problems: tuple[str, ...] = ()
    unreadable: str = ""
    authority: Authority = Authority.RUNNERS
    locked_limit_bytes: int | None = None
    would: str = ""
    missing_groups: tuple[str, ...] = ()
    socket_groups: Mapping[str, str] = field(default_factory=dict)


def examine(machine: Machine, guard: GuardFacts) -> tuple[Finding, ...]:
    """Everything that is found, in the order in which it should be mended."""
    guards = (check(guard) for check in (_config, _unreadable, _running, _locked, _groups))
    ours = (_several, oom_policy, _limit, prompt_cache, keep_alive, max_vram, exposed, _swap, _pressure)
    return tuple(chain(_authority(machine, guard), *guards, *(check(machine) for check in ours)))


def _config(guard: GuardFacts) -> Iterator[Finding]:
    for problem in guard.config_problems:
        yield Finding(
            "config",
            problem,
            "at its next start the guard would run the last good file, and without one not at all (exit"
            " code 78)",
            "edit the file, then: ollama-guard check-config && systemctl reload ollama-guard",
        )


def _unreadable(guard: GuardFacts) -> Iterator[Finding]:
    if not guard.unreadable:
        return
    yield Finding(
        "unreadable",
        f"the guard's user can't read {guard.unreadable}",
        "at its next start the guard would run the last good file, and without one not at all (exit code 78)",
        f"chown root:ollama-guard {guard.unreadable} && chmod 640 {guard.unreadable}, then: systemctl reload"
        " ollama-guard",
    )


def _running(guard: GuardFacts) -> Iterator[Finding]:
    if guard.answers:
        return
    age = guard.status_age_seconds
    if guard.answers is None and age is not None and age <= STALE_SECONDS:
        return  # this user may not ask, but the file is fresh
    if guard.answers is None and age is not None:
        what = f"the guard's status file is {seconds_text(age)} old, not {STALE_SECONDS:.0f} s at most"
        mend = "journalctl -u ollama-guard -n 20; systemctl restart ollama-guard"
    else:
        what, mend = "no guard is running", "systemctl enable --now ollama-guard"
    yield Finding(
        "guard", what, "nobody frees memory before it is short: only the kernel's OOM killer is left", mend
    )


def _locked(guard: GuardFacts) -> Iterator[Finding]:
    limit = guard.locked_limit_bytes
    if limit is None or limit >= LOCKED_BYTES:
        return
    yield Finding(
        "memlock",
        f"the guard may lock {bytes_text(limit)} of memory, less than {bytes_text(LOCKED_BYTES)}",
        "what is not locked is paged out when memory is short: a page fault can hold the guard up for"
        " seconds just"
        " when it has to act",
        "LimitMEMLOCK=infinity in [Service] of its unit (systemctl edit ollama-guard), then: systemctl"
        " restart"
        " ollama-guard",
    )


# The unit may give no file to a group: the folder that tmpfiles makes does so for what is born in it.
_GROUPS_ANEW = (
    "systemd-sysusers ollama-guard.conf && systemd-tmpfiles --create ollama-guard.conf && systemctl restart"
    " ollama-guard"
)


def _groups(guard: GuardFacts) -> Iterator[Finding]:
    for name in guard.missing_groups:
        yield Finding(
            "groups",
            f"there is no group {name}",
            "the guard's sockets then belong to root, and nobody else can read its status or speak to it",
            f"{_GROUPS_ANEW} (run by hand: groupadd --system {name})",
        )
    for socket, group in guard.socket_groups.items():
        wanted = GROUPS.get(socket, group)
        if group != wanted and wanted not in guard.missing_groups:
            yield Finding(
                "groups",
                f"{socket} belongs to the group {group}, not to {wanted}",
                f"who is in {wanted} can't use it, though that is what the group is for",
                f"{_GROUPS_ANEW} (run by hand, its user has to be in {wanted})",
            )


def _authority(machine: Machine, guard: GuardFacts) -> Iterator[Finding]:
    labelled = any(server.container and server.container.authority for server in machine.servers)
    if not guard.would or labelled or guard.authority is Authority.SERVER:
        return
    yield Finding(
        "authority",
        f"the guard would have recovered the server, and may not: {guard.would}",
        "unloading and killing model processes does not help a server that is frozen: it stays so until a"
        " person comes",
        'authority = "server" under [ollama] in /etc/ollama-guard/ollama-guard.toml, then: systemctl reload'
        " ollama-guard",
    )


def _pressure(machine: Machine) -> Iterator[Finding]:
    if machine.psi:
        return
    yield Finding(
        "psi",
        "this kernel shows no pressure (there is no /proc/pressure/memory)",
        "a machine that thrashes can look as if it had memory left; without pressure the guard is not woken"
        " by it, and"
        " can't tell a freeze from a busy moment",
        "psi=1 on the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, reboot)",
    )


def _swap(machine: Machine) -> Iterator[Finding]:
    limited = [
        s for s in machine.servers if s.limit_bytes is not None and s.limit_bytes < machine.total_bytes
    ]
    for server in limited:
        if machine.swap_bytes <= 0 or server.swap_limited is not False:
            continue
        yield Finding(
            "swap_accounting",
            f"this kernel does not count the swap of {server.title}",
            f"its limit of {bytes_text(server.limit_bytes or 0)} bounds memory alone: models spill into the"
            f" {bytes_text(machine.swap_bytes)} of swap, and every answer then waits for the disk",
            "swapaccount=1 on the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub,"
            " update-grub, reboot)",
        )


def _limit(machine: Machine) -> Iterator[Finding]:
    for server in machine.servers:
        limit = server.limit_bytes
        if limit is None or limit <= machine.total_bytes:
            continue
        yield Finding(
            "limit",
            f"{server.title} is limited to {bytes_text(limit)}, more than the machine's"
            f" {bytes_text(machine.total_bytes)}",
            "that limit never holds: the machine is out of memory first, and everybody on it with it",
            "ollama-guard init shows one that leaves the others their share",
        )


def _several(machine: Machine) -> Iterator[Finding]:
    if len(machine.servers) < 2:
        return
    named = ", ".join(f"{server.title} (pid {server.pid})" for server in machine.servers)
    yield Finding(
        "two_servers",
        f"{len(machine.servers)} Ollama servers run here: {named}",
        "each loads its own copy of a model and knows nothing of the other's memory; only the one behind"
        " [ollama] url"
        " can be asked to unload",
        f"stop one of them ({stop(machine.servers[-1])}), or name the one to guard: [ollama] cgroup",
    )
