"""TOML to policy. Every problem is reported at once, each as one sentence with file, line and key."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollama_guard.core.codec import to_plain
from ollama_guard.core.events import one_line
from ollama_guard.core.policy import (
    CapPolicy,
    ModelRule,
    NotifyPolicy,
    OllamaPolicy,
    Policy,
    QuarantinePolicy,
    RecordPolicy,
)
from ollama_guard.errors import ConfigError
from ollama_guard.settings.problems import sentences
from ollama_guard.settings.schema import File

DEFAULT_PATH = Path("/etc/ollama-guard/ollama-guard.toml")
LARGEST_FILE = 1024**2  # bytes: a thousand times the shipped file; more is not a configuration

_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


def compile_file(path: Path | None) -> Policy:
    """Read a file and compile it; None means the default file, or the built-in defaults without one.

    Raises:
        ConfigError: the file can't be read or is wrong; its ``problems`` say everything at once.
    """
    return compile_text(read_text(path), str(path or DEFAULT_PATH))


def compile_text(text: str, origin: str) -> Policy:
    """Compile TOML; ``origin`` names the file in the sentences.

    Raises:
        ConfigError: as `compile_file`.
    """
    data = _parsed(text, one_line(origin))
    try:
        return _policy(File.model_validate(data))
    except ValidationError as error:
        raise ConfigError(sentences(error, data, text, one_line(origin))) from None


def canonical_json(policy: Policy) -> str:
    """The policy as the sentinel reads it: one line, keys sorted, equal for equal policies."""
    return json.dumps(to_plain(policy), sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_text(path: Path | None) -> str:
    """The file's text; "" if no file was named and there is none at the default place.

    Raises:
        ConfigError: missing, unreadable, not a regular file, larger than 1 MiB, or not UTF-8.
    """
    shown = one_line(str(path or DEFAULT_PATH))
    try:
        raw = _read(path or DEFAULT_PATH, shown)
    except FileNotFoundError:
        if path is None:
            return ""
        raise ConfigError([f"{shown}: there is no such file; allowed: a TOML file, or no --config"]) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            [f"{shown}: it can't be read ({why}); allowed: a file that this user may read"]
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{shown}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; allowed: UTF-8 text"]
        ) from None


def _read(path: Path, shown: str) -> bytes:
    # O_NONBLOCK: opening a named pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        name = "a directory" if stat.S_ISDIR(kind) else "no regular file"
        raise ConfigError([f"{shown}: it is {name}; allowed: a TOML file"])
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        raw = bytearray()
        while chunk := file.read(LARGEST_FILE + 1 - len(raw)):
            raw += chunk
    if len(raw) > LARGEST_FILE:
        raise ConfigError([f"{shown}: it is larger than 1 MiB; allowed: a TOML file of at most 1 MiB"])
    return bytes(raw)


def _parsed(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([f"{origin}: its brackets are nested too deeply; allowed: TOML"]) from None
    except ValueError as error:  # TOMLDecodeError, and int() refusing thousands of digits
        problem = str(error)
    found = _POSITION.search(problem)
    if found is None:
        last = text.count("\n") + 1
        problem = problem.removesuffix(" (at end of document)")
        raise ConfigError([f"{origin}, by line {last}: broken TOML: {one_line(problem, 200)}"]) from None
    where = f"{origin}, line {found[1]}, column {found[2]}"
    raise ConfigError([f"{where}: broken TOML: {one_line(problem[: found.start()], 200)}"]) from None


def _policy(file: File) -> Policy:
    ollama, policy = file.ollama, file.policy
    return Policy(
        ollama=OllamaPolicy(
            url=ollama.url,
            authority=ollama.authority,
            mode=policy.mode,
            user_id=ollama.user,
            cgroup=ollama.cgroup,
            poll_seconds=ollama.poll,
            unresponsive_after_seconds=ollama.unresponsive_after,
            request_timeout_seconds=ollama.request_timeout,
            runtime=ollama.runtime,
            runtime_name=ollama.runtime_name,
            docker_host=ollama.docker_host,
            models_folder=ollama.models_folder,
        ),
        host=file.thresholds.host.core,
        container=file.thresholds.container.core,
        cap=CapPolicy(soft_max=file.cap.soft_max, hard=file.cap.hard, hard_max=file.cap.hard_max),
        playbook=file.playbook.freeze.core,
        models={name: ModelRule(rule.preference, rule.protect) for name, rule in file.models.items()},
        record=RecordPolicy(
            enabled=file.record.enabled,
            max_total_bytes=file.record.max_total,
            max_file_bytes=file.record.max_file,
            folder=file.record.folder,
        ),
        quarantine=QuarantinePolicy(
            enabled=file.quarantine.enabled,
            action=file.quarantine.action,
            restore=file.quarantine.restore,
            restore_after_seconds=file.quarantine.restore_after,
        ),
        tiers=tuple(tier.core for tier in file.tiers),
        notify=NotifyPolicy(webhook=file.notify.webhook, timeout_seconds=file.notify.timeout),
        transition_seconds=policy.transition,
        min_reclaim_ratio=policy.min_reclaim.ratio,
        min_reclaim_floor_bytes=policy.min_reclaim.floor_bytes,
        post_action_delay_seconds=policy.post_action_delay,
        unload_deadline_seconds=policy.unload_deadline,
        drain_deadline_seconds=policy.drain_deadline,
        condemned_seconds=policy.condemned,
        condemned_max_seconds=policy.condemned_at_most,
        kills_per_hour=policy.kills_per_hour,
        runners_die_first=policy.runners_die_first,
    )
