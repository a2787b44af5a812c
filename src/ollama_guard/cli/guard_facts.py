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

from ollama_guard.cli.client import NoPermission, NotRunning, get_status
from ollama_guard.cli.options import Places
from ollama_guard.cli.written import GUARDS_USER, below, policy_below
from ollama_guard.core.checkup import GROUPS, GuardFacts
from ollama_guard.core.model import Condition
from ollama_guard.core.policy import Policy
from ollama_guard.errors import ConfigError, ServiceUnavailable
from ollama_guard.settings.compiler import DEFAULT_PATH

# How a decision begins that was not carried out, and what it says when that was for want of the owner's word.
_WOULD, _NEEDS_WORD = "would have: ", "authority"
# A look at one file takes a millisecond; a disk that hangs must not hold `doctor` up.
_TEST_SECONDS = 5.0
_UNLIMITED = 2**63 - 1  # bytes: what "unlimited" comes to


def guard_facts(where: Places, root: Path) -> tuple[Policy, GuardFacts]:
    """The policy of the file (the defaults where that is bad), and what was seen of the guard."""
    problems: tuple[str, ...] = ()
    policy = Policy()
    try:
        policy = policy_below(root, where.config)
    except ConfigError as error:
        problems = tuple(error.problems)
    shipped = below(root, DEFAULT_PATH)  # what its unit reads, whatever file was named here
    answers, status = _asked(where.runtime_dir)
    return policy, GuardFacts(
        answers=answers,
        status_age_seconds=_age(where.state_dir / "public" / "status.json"),
        config_problems=problems,
        unreadable=str(DEFAULT_PATH) if unreadable_by(GUARDS_USER, shipped) else "",
        authority=policy.ollama.authority,
        locked_limit_bytes=_locked_limit(status),
        would=_would(status),
        missing_groups=tuple(name for name in GROUPS.values() if not _is_group(name)),
        socket_groups=_socket_groups(where.runtime_dir),
    )


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


def _asked(runtime_dir: Path) -> tuple[bool | None, Mapping[str, Any]]:
    """(whether it answers; None where this user may not ask, its status)."""
    try:
        return True, get_status(runtime_dir)
    except NoPermission:
        return None, {}
    except NotRunning:
        return False, {}
    except ServiceUnavailable:
        return True, {}  # it is there, and has no status yet


def _age(path: Path) -> float | None:
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _locked_limit(status: Mapping[str, Any]) -> int | None:
    """How much the running guard may lock, in bytes; None when that can't be told."""
    guard = status.get("guard")
    pid = guard.get("pid") if isinstance(guard, dict) else None
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc", str(int(pid or 0)), "limits").read_text(encoding="ascii").splitlines():
            if line.startswith("Max locked memory"):
                soft = line.split()[3]
                return _UNLIMITED if soft == "unlimited" else int(soft)
    return None


def _would(status: Mapping[str, Any]) -> str:
    """What the guard would have done to the server, in its own words; "" for nothing."""
    for held in status.get("conditions") or ():
        if held.get("condition") == Condition.FROZEN:
            return f"it is frozen: {held.get('reason')}"
    reason = str((status.get("last_decision") or {}).get("reason"))
    return reason if reason.startswith(_WOULD) and _NEEDS_WORD in reason else ""


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _socket_groups(runtime_dir: Path) -> dict[str, str]:
    """The groups of the sockets that are there."""
    found: dict[str, str] = {}
    for name in GROUPS:
        with contextlib.suppress(OSError, KeyError):
            found[name] = grp.getgrgid((runtime_dir / name).stat().st_gid).gr_name
    return found
