"""What `doctor` sees of the guard itself: its file, its sockets, its status, its limits."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_guard.cli.client import NoPermission, NotRunning, get_playbooks, get_status
from ollama_guard.cli.guard_process import DOCKER_SOCKET, process_facts
from ollama_guard.cli.options import Places
from ollama_guard.cli.written import GUARDS_USER, below, policy_below
from ollama_guard.core.checkup_guard import GROUPS, GuardFacts
from ollama_guard.core.model import Condition
from ollama_guard.core.policy import Authority, Policy
from ollama_guard.core.recovery import Playbook
from ollama_guard.errors import ConfigError, ServiceUnavailable
from ollama_guard.settings.compiler import DEFAULT_PATH

# How a decision begins that was not carried out, and what it says when that was for want of the owner's word.
_WOULD, _NEEDS_WORD = "would have: ", "authority"
# A look at one file takes a millisecond; a disk that hangs must not hold `doctor` up.
_TEST_SECONDS = 5.0
_GROUP_FILE = Path("/etc/group")


def guard_facts(where: Places, root: Path) -> tuple[Policy, GuardFacts, Mapping[str, Any]]:
    """The policy of the file (the defaults where that is bad), what was seen of the guard, and its status."""
    unknown: dict[str, str] = {}
    policy, problems = owners_policy(root, where.config, unknown)
    shipped = below(root, DEFAULT_PATH)  # what its unit reads, whatever file was named here
    answers, status = _asked(where.runtime_dir, unknown)
    process = process_facts(status, unknown)
    groups = _Groups(root)
    may_act = policy.ollama.authority is Authority.SERVER
    facts = GuardFacts(
        answers=answers,
        status_age_seconds=_age(where.state_dir / "public" / "status.json"),
        config_problems=problems,
        unreadable=str(DEFAULT_PATH) if unreadable_by(GUARDS_USER, shipped) else "",
        authority=policy.ollama.authority,
        locked_limit_bytes=process.locked_limit_bytes,
        would=_would(status),
        missing_groups=tuple(name for name in GROUPS.values() if not groups.has(name)),
        socket_groups=_socket_groups(where.runtime_dir, groups),
        user=process.user,
        may_kill=process.may_kill,
        reaches_docker=process.may_use(
            Path(policy.ollama.docker_host.removeprefix("unix://") or DOCKER_SOCKET)
        ),
        cannot=_cannot(where.runtime_dir, unknown) if answers and may_act else "",
        unknown=unknown,
    )
    return policy, facts, status


def owners_policy(root: Path, config: Path | None, unknown: dict[str, str]) -> tuple[Policy, tuple[str, ...]]:
    """The owner's policy, and what is wrong with its file; the defaults where that is bad or can't be known.

    A file that is not for everybody to read is well: that this user may not is no problem of the file's.
    """
    path = config or DEFAULT_PATH
    try:
        if os.geteuid() == 0 or _may_read(below(root, path)):
            return policy_below(root, config), ()
        unknown["the guard's configuration"] = f"{path}: this user may not read it"
    except ConfigError as error:
        return Policy(), tuple(error.problems)
    return Policy(), ()


def _may_read(path: Path) -> bool:
    """Whether this user may, also where nothing is there to read."""
    try:
        return not path.exists() or os.access(path, os.R_OK)
    except PermissionError:
        return False  # nor look into its folder


def unreadable_by(user: str, path: Path) -> bool:
    """Whether a user can't read a file that is there; False also where that can't be told: only root can."""
    try:
        known = pwd.getpwnam(user)
        if os.geteuid() != 0 or not path.exists():
            return False
        done = subprocess.run(  # noqa: S603  (its own arguments)
            ["/usr/bin/test", "-r", str(path)],
            user=known.pw_uid,
            group=known.pw_gid,
            extra_groups=os.getgrouplist(user, known.pw_gid),
            cwd="/",
            timeout=_TEST_SECONDS,
            check=False,
        )
    except (KeyError, OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 1


def _asked(runtime_dir: Path, unknown: dict[str, str]) -> tuple[bool | None, Mapping[str, Any]]:
    """(whether it answers; None where this user may not ask, or no sense came of it; its status)."""
    try:
        return True, get_status(runtime_dir)
    except NoPermission as error:
        unknown["the guard's status"] = str(error)
        return None, {}
    except NotRunning:
        return False, {}
    except ServiceUnavailable as error:  # it may be starting, or stand still: the age of its file tells
        unknown["the guard's status"] = str(error)
        return None, {}


def _age(path: Path) -> float | None:
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _would(status: Mapping[str, Any]) -> str:
    """What the guard would have done to the server, in its own words; "" for nothing."""
    for held in status.get("conditions") or ():
        if held.get("condition") == Condition.FROZEN:
            return f"it is frozen: {held.get('reason')}"
    reason = str((status.get("last_decision") or {}).get("reason"))
    return reason if reason.startswith(_WOULD) and _NEEDS_WORD in reason else ""


def _cannot(runtime_dir: Path, unknown: dict[str, str]) -> str:
    try:
        return cannot(get_playbooks(runtime_dir))
    except (NoPermission, NotRunning, ServiceUnavailable) as error:
        unknown["the guard's playbooks"] = str(error)
        return ""


def cannot(document: Mapping[str, Any]) -> str:
    """Why the guard may not stop or start the server, whoever asks for it; "" for nothing."""
    rows = (row for row in document["playbooks"] if row["name"] == Playbook.FREEZE)
    return next((str(row["why_not_by_hand"] or "") for row in rows), "")


class _Groups:
    """The groups of this machine; those of a laid-out one stand in its own file."""

    def __init__(self, root: Path) -> None:
        file = below(root, _GROUP_FILE)
        self._laid_out: dict[int, str] | None = None
        if root != Path("/") and file.exists():
            text = file.read_text(encoding="utf-8", errors="replace")
            fields = [line.split(":") for line in text.splitlines()]
            self._laid_out = {int(f[2]): f[0] for f in fields if len(f) > 2 and f[2].isdecimal()}

    def has(self, name: str) -> bool:
        if self._laid_out is not None:
            return name in self._laid_out.values()
        try:
            grp.getgrnam(name)
        except KeyError:
            return False
        return True

    def name_of(self, number: int) -> str:
        return grp.getgrgid(number).gr_name if self._laid_out is None else self._laid_out[number]


def _socket_groups(runtime_dir: Path, groups: _Groups) -> dict[str, str]:
    """The groups of the sockets that are there."""
    found: dict[str, str] = {}
    for name in GROUPS:
        with contextlib.suppress(OSError, KeyError):
            found[name] = groups.name_of((runtime_dir / name).stat().st_gid)
    return found
