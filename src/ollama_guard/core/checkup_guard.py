"""What is wrong with the guard itself: its file, its process, its rights; part of `checkup`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ollama_guard.core.checks import Check
from ollama_guard.core.finding import Finding, Severity
from ollama_guard.core.machine import Machine, Server
from ollama_guard.core.policy import MIB, Authority
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.units import bytes_text, seconds_text

# Seconds after which a status file is nobody's word any more (design, section 7).
STALE_SECONDS = 60.0
# Bytes that the guard locks, with room: its budget is 16 MiB, and 64 is what its unit grants as MemoryMin.
LOCKED_BYTES = 64 * MIB
GROUPS = {"status.sock": "ollama-guard", "control.sock": "ollama-guard-admin"}
"""Whose each socket is to be (design, section 7)."""
_IN_ITS_UNIT = "under [Service] (systemctl edit ollama-guard), then: systemctl restart ollama-guard"


@dataclass(frozen=True, slots=True)
class GuardFacts:
    """What was seen of the guard itself.

    ``answers``: its socket answered; None when this user may not ask. ``status_age_seconds`` is that of the
    public status file, None without one. ``would`` is what it would have done to the server, in its own
    words. ``unreadable`` is a configuration file that the guard's user can't read, ``missing_groups`` are the
    sockets' groups that this machine doesn't have. ``user`` is whose the running guard is, ``may_kill``
    whether it may signal everybody, ``reaches_docker`` whether it can use Docker's socket; None: not known.
    ``cannot`` is why it may not stop or start the server, in its own words, "" for nothing.
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
    user: str = ""
    may_kill: bool | None = None
    reaches_docker: bool | None = None
    cannot: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)


def config(guard: GuardFacts) -> Iterator[Finding]:
    """Its file is wrong."""
    for problem in guard.config_problems:
        yield Finding(
            Check.CONFIG,
            problem,
            "at its next start the guard would run the last good file, and without one not at all (exit"
            " code 78)",
            "edit the file, then: ollama-guard check-config && systemctl reload ollama-guard",
        )


def unreadable(guard: GuardFacts) -> Iterator[Finding]:
    """Its user can't read its file."""
    if not guard.unreadable:
        return
    yield Finding(
        Check.UNREADABLE,
        f"the guard's user can't read {guard.unreadable}",
        "at its next start the guard would run the last good file, and without one not at all (exit code 78)",
        f"chown root:ollama-guard {guard.unreadable} && chmod 640 {guard.unreadable}, then: systemctl"
        " reload ollama-guard",
    )


def running(guard: GuardFacts) -> Iterator[Finding]:
    """No guard, or one that stands still."""
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
        Check.GUARD,
        what,
        "nobody frees memory before it is short: only the kernel's OOM killer is left",
        mend,
    )


def locked(guard: GuardFacts) -> Iterator[Finding]:
    """It may be paged out."""
    limit = guard.locked_limit_bytes
    if limit is None or limit >= LOCKED_BYTES:
        return
    yield Finding(
        Check.MEMLOCK,
        f"the guard may lock {bytes_text(limit)} of memory, less than {bytes_text(LOCKED_BYTES)}",
        "what is not locked is paged out when memory is short: a page fault can hold the guard up for"
        " seconds just when it has to act",
        f"LimitMEMLOCK=infinity {_IN_ITS_UNIT}",
        Severity.ADVICE,
    )


# The unit may give no file to a group: the folder that tmpfiles makes does so for what is born in it.
_GROUPS_ANEW = (
    "systemd-sysusers ollama-guard.conf && systemd-tmpfiles --create ollama-guard.conf && systemctl"
    " restart ollama-guard"
)


def groups(guard: GuardFacts) -> Iterator[Finding]:
    """Its sockets are nobody's, or another's."""
    for name in guard.missing_groups:
        yield Finding(
            Check.GROUPS,
            f"there is no group {name}",
            "the guard's sockets then belong to root, and nobody else can read its status or speak to it",
            f"{_GROUPS_ANEW} (run by hand: groupadd --system {name})",
            Severity.ADVICE,
        )
    for socket, group in guard.socket_groups.items():
        wanted = GROUPS.get(socket, group)
        if group != wanted and wanted not in guard.missing_groups:
            yield Finding(
                Check.GROUPS,
                f"{socket} belongs to the group {group}, not to {wanted}",
                f"who is in {wanted} can't use it, though that is what the group is for",
                f"{_GROUPS_ANEW} (run by hand, its user has to be in {wanted})",
                Severity.ADVICE,
            )


def authority(machine: Machine, guard: GuardFacts) -> Iterator[Finding]:
    """It would have recovered the server, and may not."""
    labelled = any(server.container and server.container.authority for server in machine.servers)
    if not guard.would or labelled or guard.authority is Authority.SERVER:
        return
    yield Finding(
        Check.AUTHORITY,
        f"the guard would have recovered the server, and may not: {guard.would}",
        "unloading and killing model processes does not help a server that is frozen: it stays so until a"
        " person comes",
        'authority = "server" under [ollama] in /etc/ollama-guard/ollama-guard.toml, then: systemctl reload'
        " ollama-guard",
    )


# What the guard says of a unit that it may not drive, and the rule that it comes with, for ollama.service.
_POLKIT = "polkit"
_POLKIT_RULE = (
    "install the guard's polkit rule (/usr/share/polkit-1/rules.d/50-ollama-guard.rules); for a unit of"
    " another name than ollama.service copy it to /etc/polkit-1/rules.d/49-ollama-guard.rules and name the"
    " unit there"
)


def rights(machine: Machine, guard: GuardFacts) -> Iterator[Finding]:
    """It runs, and may not do what its owner counts on."""
    for server in machine.servers:
        if guard.may_kill is False and server.user and server.user != guard.user:
            yield Finding(
                Check.RIGHTS,
                f"the guard runs as {guard.user or 'a user without a name'} without CAP_KILL, and"
                f" {server.title} as {server.user}",
                "it can ask for unloads and not end anything: a load that can't fit, or a model's process"
                " that hangs, goes on until the kernel kills somebody",
                f"AmbientCapabilities=CAP_KILL and CapabilityBoundingSet=CAP_KILL {_IN_ITS_UNIT}",
            )
        elif server.kind is RuntimeKind.DOCKER and guard.reaches_docker is False and _may_act(server, guard):
            yield Finding(
                Check.RIGHTS,
                f"the guard may act on {server.title} and can't use Docker's socket as {guard.user}",
                "it is allowed to stop, constrain and start a frozen Ollama, and can't: that stays frozen",
                f"SupplementaryGroups=docker {_IN_ITS_UNIT}",
            )
        elif server.kind is RuntimeKind.SYSTEMD and _POLKIT in guard.cannot and _may_act(server, guard):
            yield Finding(
                Check.RIGHTS,
                f"the guard may act on {server.title}, and {guard.cannot}",
                "it is allowed to stop, constrain and start a frozen Ollama, and can't: that stays frozen",
                _POLKIT_RULE,
            )


def _may_act(server: Server, guard: GuardFacts) -> bool:
    labelled = server.container is not None and server.container.authority
    return labelled or guard.authority is Authority.SERVER
