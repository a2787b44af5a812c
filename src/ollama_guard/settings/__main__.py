"""``python -I -m ollama_guard.settings compile --config PATH --state-dir DIR``: the compiler as a program.

The sentinel runs it at a reload, under a deadline. It prints the policy as canonical JSON (exit 0), or the
problems on stderr (exit 78). A disk that hangs costs the last good copy, never the policy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ollama_guard.core.policy import Policy
from ollama_guard.errors import ConfigError
from ollama_guard.settings.compiler import DEFAULT_PATH, canonical_json, compile_text, read_text
from ollama_guard.settings.deadline import within
from ollama_guard.settings.ignored import hints
from ollama_guard.settings.last_good import keep_last_good

EXIT_CONFIG = 78  # sysexits.h, EX_CONFIG
KEEP_SECONDS = 2.0  # seconds: two small writes with fsync take 0.1 s on a slow card


def main(arguments: list[str]) -> int:
    """Compile once; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ollama_guard.settings", allow_abbrev=False)
    parser.add_argument("verb", choices=["compile"])
    parser.add_argument("--config", type=Path, help="without it, or empty: the default file, if there is one")
    parser.add_argument("--state-dir", type=Path, help="where the last good copy is kept")
    options = parser.parse_args(arguments)
    path = options.config if options.config and options.config.name else None
    try:
        text = read_text(path)
        policy = compile_text(text, str(path or DEFAULT_PATH))
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        return EXIT_CONFIG
    sys.stdout.write(canonical_json(policy) + "\n")
    sys.stdout.flush()
    sys.stderr.write("".join(f"{hint}\n" for hint in hints(text, str(path or DEFAULT_PATH))))
    if options.state_dir is not None:
        _keep(options.state_dir, text, policy)
    return 0


def _keep(state_dir: Path, text: str, policy: Policy) -> None:
    def keep() -> str:
        keep_last_good(state_dir, text, policy)
        return ""

    try:
        within(KEEP_SECONDS, keep)
    except OSError as error:  # TimeoutError is one
        sys.stderr.write(f"the last good copy can't be kept in {state_dir}: {error}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
