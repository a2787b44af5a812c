"""The last good configuration, kept so that a bad edit never leaves the machine unguarded.

``last-good.toml`` is the owner's text, for people and for a later version; ``policy.json`` is what it
compiled to. Both are replaced atomically. The disk may hang: callers set a deadline around this.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from ollama_guard.core.codec import CodecError, from_plain
from ollama_guard.core.policy import Policy
from ollama_guard.errors import ConfigError
from ollama_guard.settings.compiler import canonical_json, compile_text, read_text

TEXT_NAME = "last-good.toml"
POLICY_NAME = "policy.json"


def keep_last_good(state_dir: Path, text: str, policy: Policy) -> None:
    """Write both copies, unless they are there already (a restart wears no flash memory).

    Raises:
        OSError: the disk is full, read-only or gone; what was there before is still whole.
    """
    _replace(state_dir / TEXT_NAME, text.encode())
    _replace(state_dir / POLICY_NAME, canonical_json(policy).encode() + b"\n")


def load_last_good(state_dir: Path) -> Policy | None:
    """The last good policy; compiled again from its text where another version wrote it; None without one."""
    try:
        policy: Policy = from_plain(Policy, json.loads(read_text(state_dir / POLICY_NAME)))
    except (ConfigError, CodecError, ValueError, RecursionError):
        pass
    else:
        return policy
    try:
        return compile_text(read_text(state_dir / TEXT_NAME), str(state_dir / TEXT_NAME))
    except ConfigError:
        return None


def _replace(path: Path, content: bytes) -> None:
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o640)  # a webhook's URL is often its key
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
