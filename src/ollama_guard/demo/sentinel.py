"""``python -I -m ollama_guard.demo.sentinel``: the ordinary sentinel, whose eyes see the demo's world only.

There is no option and no environment variable of the production guard that does this: narrowing is a
matter of which program is started.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ollama_guard.core.policy import Policy
from ollama_guard.sentinel import kernel
from ollama_guard.sentinel.__main__ import guard, read_policy
from ollama_guard.sentinel.outfit import Setup
from ollama_guard.sentinel.sensors import Sensors


def main(argv: list[str]) -> int:
    """Guard the world in ``--folder`` until told to stop or until the show is gone; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ollama_guard.demo.sentinel", allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True, help="the demo's: demo.toml, proc, run, state")
    parser.add_argument("--policy-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="whose end is ours")
    options = parser.parse_args(argv)
    kernel.die_with_parent(signal.SIGTERM)
    if os.getppid() != options.parent:
        return 0
    folder: Path = options.folder
    setup = Setup(
        policy=read_policy(options.policy_fd),
        config=str(folder / "demo.toml"),
        runtime_dir=folder / "run",
        state_dir=str(folder / "state"),
    )
    guard(setup, senses_of(folder))
    return 0


def senses_of(folder: Path) -> Callable[[Policy], Sensors]:
    """The ordinary sensors over the small world in ``folder``.

    The cgroup root has no tree in it: the limits of this machine are no part of that world.
    """
    return lambda policy: Sensors(policy, proc=str(folder / "proc"), cgroup_root=str(folder / "cgroup"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
