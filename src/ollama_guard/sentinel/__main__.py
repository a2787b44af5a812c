"""``python -I -m ollama_guard.sentinel``: the daemon's main process, exec'ed by ``ollama-guard run``.

The policy comes as JSON on a descriptor; the state directory is only passed on, never touched here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ollama_guard.core.codec import from_plain
from ollama_guard.core.model import Mode
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel import lock
from ollama_guard.sentinel.journal import open_journal
from ollama_guard.sentinel.loop import Loop
from ollama_guard.sentinel.mind import Senses
from ollama_guard.sentinel.outfit import Outfit, Setup
from ollama_guard.sentinel.sensors import Sensors

EXIT_FAILED = 1
EXIT_CONFIG = 78  # sysexits.h, EX_CONFIG
# A policy is a few KiB; a hundred times that is no policy.
_POLICY_LIMIT = 1024**2


def main(argv: list[str]) -> int:
    """Guard until told to stop; returns the exit code."""
    options = _parse(argv)
    try:
        policy = read_policy(options.policy_fd)
    except (OSError, ValueError, RecursionError) as error:
        return _refuse(f"the policy on descriptor {options.policy_fd} can't be read: {error}", EXIT_CONFIG)
    try:
        lock.take(Path(options.runtime_dir) / "lock")
    except lock.AlreadyRunning as error:
        return _refuse(str(error), EXIT_FAILED)
    except OSError as error:
        return _refuse(
            f"the runtime directory {options.runtime_dir} can't be used: {error.strerror}", EXIT_FAILED
        )
    guard(
        Setup(
            policy=policy,
            config=options.config,
            runtime_dir=Path(options.runtime_dir),
            state_dir=options.state_dir,
            mode=Mode(options.mode) if options.mode else None,
            warnings=tuple(options.warning),
        )
    )
    return 0


def guard(setup: Setup, make_senses: Callable[[Policy], Senses] = Sensors) -> None:
    """Run one guard from start to stop; the lock is the caller's."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    outfit = Outfit(setup, open_journal(os.environ), make_senses)
    try:
        Loop(outfit).run()
    finally:
        outfit.close()


def read_policy(fd: int) -> Policy:
    """The policy as JSON from a descriptor, which is closed.

    Raises:
        OSError: no such descriptor.
        ValueError: not JSON, or not a policy (`CodecError`).
    """
    with os.fdopen(fd, "rb") as file:
        text = file.read(_POLICY_LIMIT)
    policy: Policy = from_plain(Policy, json.loads(text))
    return policy


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ollama_guard.sentinel", allow_abbrev=False)
    parser.add_argument("--policy-fd", type=int, required=True)
    parser.add_argument("--config", default="", help="what HUP compiles again")
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--mode", choices=[Mode.ENFORCE.value, Mode.OBSERVE.value])
    parser.add_argument("--warning", action="append", default=[], help="a sentence to log at the start")
    return parser.parse_args(argv)


def _refuse(sentence: str, code: int) -> int:
    sys.stderr.write(f"ollama-guard: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
